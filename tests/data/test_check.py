"""Problems of a source: every planted fault is named by file and row, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blip.data.check import Check, HashSet64, hash64
from blip.io.columns import Columns
from tests.data.test_sources import png, tar_sample, write_json, write_tar


def lines(*names: Path, columns: Columns | None = None, **how: Any) -> list[str]:
    return list(Check(names=[str(name) for name in names], columns=columns or Columns(), **how))


def write_jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_hash_set_equals_a_set_over_many_calls() -> None:
    rng = np.random.RandomState(0)
    seen, known = HashSet64(), set[int]()
    for size in (1, 700, 3, 0, 512, 512, 2000):
        values = [int(v) for v in rng.randint(0, 3000, size)]
        expected = []
        for value in values:
            expected.append(value in known)
            known.add(value)
        assert seen.add(values).tolist() == expected
    assert len(seen) == len(known)


def test_hashes_have_64_bits_and_accept_any_text() -> None:
    hashes = {hash64(text) for text in ("", "a", "b", "\udc80")}
    assert len(hashes) == 4 and max(hashes).bit_length() > 56


def test_a_valid_source_has_no_problems_and_correct_counts(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [*tar_sample("a", 1, captions=["x", "y"]), *tar_sample("b", 2, caption="z")])
    check = Check(names=[str(path)], workers=2)
    assert list(check) == []
    assert (check.rows, check.images, check.texts, check.problems) == (2, 2, 3, 0)


def test_missing_and_damaged_images_are_reported_once_with_their_row(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png()[:40])
    rows = [{"image": name, "caption": str(i)} for i, name in enumerate(("gone.png", "cut.png", "gone.png"))]
    path = write_jsonl(tmp_path / "a.jsonl", *rows)
    assert lines(path)[0] == f"{tmp_path}/gone.png: no such file ({path}:1)"
    assert lines(path)[1].startswith(f"{tmp_path}/cut.png: ") and lines(path)[1].endswith(f" ({path}:2)")
    assert len(lines(path)) == 2
    assert lines(path, decode=False) == [f"{tmp_path}/gone.png: no such file ({path}:1)"]


def test_an_image_inside_a_shard_is_named_by_its_member(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png()[:40]), ("a.txt", b"x")])
    (line,) = lines(path)
    assert line.startswith(f"{path}/a.png: ") and line.endswith(f"({path}/a)")


def test_rows_without_text_are_problems_unless_none_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png())
    (tmp_path / "b.txt").write_text(" \n")
    assert lines(tmp_path) == [f"{tmp_path}/a.png: no text", f"{tmp_path}/b.png: no text"]
    assert lines(tmp_path, need_text=False) == []


def test_questions_and_sentences_count_as_texts(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    rows = [{"image": "a.png", "question": "why?"}, {"images": ["a.png", "a.png"], "sentence": "so"}]
    rows += [{"image": "a.png", "question": " "}]
    assert lines(write_json(tmp_path / "a.json", rows)) == [f"{tmp_path}/a.json:3: no text"]


def test_duplicate_keys_are_problems_across_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    paths = [write_jsonl(tmp_path / f"{n}.jsonl", {"key": "k", "image": "a.png", "caption": n}) for n in "ab"]
    assert lines(*paths) == [f"{paths[1]}:1: duplicate key 'k'"]
    columns = Columns(key="id")
    path = write_jsonl(tmp_path / "c.jsonl", *[{"id": 7, "image": "a.png", "caption": c} for c in "xy"])
    assert lines(path, columns=columns) == [f"{path}:2: duplicate key '7'"]


def test_a_table_may_repeat_an_image_but_not_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    rows = [{"image": "a.png", "caption": caption} for caption in ("one", "two", "one")]  # as COCO's training list
    path = write_json(tmp_path / "a.json", rows)
    assert lines(path) == [f"{path}:3: equal to an earlier row"]


def test_shards_with_the_same_name_have_duplicate_keys(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "s.tar", tar_sample("k", caption="x"))
    assert lines(tmp_path / "a/s.tar", tmp_path / "b/s.tar") == [f"{tmp_path}/b/s.tar/k: duplicate key 's.tar/k'"]


def test_bad_rows_and_files_do_not_stop_the_check(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    good = {"image": "a.png", "caption": "x"}
    (tmp_path / "a.jsonl").write_text('{"caption": "x"}\n{\n' + json.dumps(good))
    (tmp_path / "b.json").write_text("[" + json.dumps(good | {"caption": "y"}))
    problems = lines(tmp_path / "a.jsonl", tmp_path / "none.tar", tmp_path / "b.json")
    assert [line.split(": ")[0] for line in problems] == [
        f"{tmp_path}/a.jsonl:1",
        f"{tmp_path}/a.jsonl:2",
        f"{tmp_path}/none.tar",
        f"{tmp_path}/b.json",
    ]
    assert "no such file" in problems[2] and "not JSON" in problems[3]


@pytest.mark.parametrize("batch", [1, 2, 512])
def test_problems_do_not_depend_on_batches(tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.data.check.BATCH", batch)
    rows = [{"image": f"{i % 3}.png", "caption": str(i % 4)} for i in range(14)]
    path = write_json(tmp_path / "a.json", rows)
    problems = lines(path)
    assert [line for line in problems if "no such file" in line] == [
        f"{tmp_path}/{i}.png: no such file ({path}:{i + 1})" for i in range(3)
    ]
    assert [line for line in problems if "equal" in line] == [f"{path}:{n}: equal to an earlier row" for n in (13, 14)]
