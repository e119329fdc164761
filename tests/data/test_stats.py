"""Statistics of sources that are small enough to count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blip.data.stats import answer_list, statistics
from blip.io.columns import Columns
from blip.io.readers import read
from blip_lite.errors import UsageError
from tests.data.test_sources import png, tar_sample, write_json, write_tar


def count(path: Path, **how: Any) -> dict[str, Any]:
    return statistics(read(str(path), Columns()), **how)


def test_texts_and_words_are_counted(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "caption": ["A dog's bone, a dog.", "Two"]},
        {"image": "b.png", "caption": "two DOGS"},
        {"image": "a.png", "caption": "a"},
        {"caption": "lost"},
    ]
    counts = count(write_json(tmp_path / "a.json", rows), size_sample=0)
    assert {k: counts[k] for k in ("rows", "bad_rows", "images", "texts", "texts_per_image")} == {
        "rows": 4,
        "bad_rows": 1,
        "images": 2,
        "texts": 4,
        "texts_per_image": 2.0,
    }
    assert counts["words_per_text"] == {"mean": 9 / 4, "median": 1, "p95": 5, "max": 5}
    assert counts["vocabulary"] == len({"a", "dog's", "bone", "dog", "two", "dogs"})
    assert counts["longest"] == "A dog's bone, a dog."
    assert "width" not in counts and "questions" not in counts and "labels" not in counts


def test_sizes_are_of_a_sample_by_header(tmp_path: Path) -> None:
    broken = [("z.png", b"\0" * 9), ("z.txt", b"x")]
    path = write_tar(tmp_path / "s.tar", [*tar_sample("a", caption="x"), *tar_sample("b", caption="y"), *broken])
    counts = count(path)
    assert counts["width"] == {"min": 3, "median": 3, "max": 3} and counts["height"]["max"] == 2
    assert (counts["sampled_images"], counts["without_size"]) == (3, 1)
    assert count(path, size_sample=1)["sampled_images"] == 1


def test_questions_have_shares_of_answers(tmp_path: Path) -> None:
    answers = [["yes"] * 9 + ["no"], ["2"] * 6 + ["two"] * 4, "red", None]
    rows = [
        {"image": f"{i}.png", "question": "is it?", **({} if a is None else {"answer": a})}
        for i, a in enumerate(answers)
    ]
    counts = count(write_json(tmp_path / "a.json", rows), size_sample=0)
    assert (counts["questions"], counts["answered"], counts["distinct_answers"], counts["texts"]) == (4, 3, 5, 4)
    assert counts["answers"] == {"yes": 9 / 21, "2": 6 / 21, "two": 4 / 21, "no": 1 / 21, "red": 1 / 21}
    assert counts["answer_kinds"] == {"yes/no": 1 / 3, "number": 1 / 3, "other": 1 / 3}


def test_pairs_have_shares_of_labels(tmp_path: Path) -> None:
    rows = [{"images": ["a.png", f"{i}.png"], "sentence": "s", "label": str(i > 0)} for i in range(4)]
    counts = count(write_json(tmp_path / "a.json", rows), size_sample=0)
    assert counts["labels"] == {"true": 0.75, "false": 0.25} and counts["images"] == 5


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no samples \(an empty folder\)"):
        count(tmp_path)


def test_the_sample_is_even_over_a_long_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        (tmp_path / f"{i:02d}.png").write_bytes(png())
    drawn: list[int] = []
    monkeypatch.setattr("blip.data.stats._read_size", lambda ref: drawn.append(int(ref.path.stem)) or (1, 1))
    assert count(tmp_path, size_sample=10)["sampled_images"] == 10
    assert len(set(drawn)) == 10 and max(drawn) >= 20 > min(drawn)


def test_the_list_holds_answers_that_are_often_the_most_common(tmp_path: Path) -> None:
    given = [["yes"] * 10] * 3 + [["no", "yes", "no"]] * 4 + [["Red", "blue"]] * 3 + [["rare"]] * 2
    rows = [{"image": "a.png", "question": "q", "answer": answer} for answer in given]
    rows += [{"image": "a.png", "question": "q", "answer": "rare"}, {"image": "a.png", "question": "q"}]
    path = write_json(tmp_path / "a.json", rows)
    assert answer_list(read(str(path), Columns()), 3) == ["no", "Red", "rare", "yes"]
    assert answer_list(read(str(path), Columns()), 4) == ["no"]
    assert answer_list(read(str(path), Columns())) == []
