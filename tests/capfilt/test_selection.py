"""Files of a selection: images and texts arrive unchanged, other programs read them, and nothing else is lost."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from blip.capfilt import select
from blip.capfilt.selection import SELECTION
from blip.data.sources import open_source
from blip.engine.units import Unit
from blip.io.lock import exclusive
from blip.io.tar_files import tar_members
from blip_lite.errors import EnvironmentProblem, UnreadableImage, UsageError
from blip_lite.text_files import load_json
from tests.capfilt.score_rows import Row, tar_rows, text_row, write_scores, write_units
from tests.data.test_sources import png, write_tar


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_tar(tmp_path / "in/cc-0.tar", [(f"{i:03}.png", png(i)) for i in range(4)])


@pytest.fixture
def scores(tmp_path: Path, shard: Path) -> Path:
    """Scores of four images of a tar (the third does not pass) and of two files, one of them human."""
    rows = tar_rows(shard, [("web", f"text {i}", 0.1 if i == 2 else 0.9) for i in range(4)])
    rows.insert(1, {**rows[0], "kind": "synthetic", "text": "synthetic 0", "itm": 0.8, "index": 0})
    return write_scores(tmp_path / "out", [{**row, "license": f"L{i}"} for i, row in enumerate(rows)], files(tmp_path))


def files(folder: Path) -> list[Row]:
    (folder / "photos").mkdir()
    rows = []
    for key, kind, score in (("a", "web", 0.9), ("b", "human", None)):
        path = folder / f"photos/{key}.jpg"
        path.write_bytes(png(ord(key)))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append(text_row(key, kind, f"{kind} {key}", score, image=str(path), sha256=sha256, width=8, height=8))
    return rows


EXPECTED = [
    (png(0), ("text 0", "synthetic 0")),
    (png(1), ("text 1",)),
    (png(3), ("text 3",)),
    (png(ord("a")), ("web a",)),
    (png(ord("b")), ("human b",)),
]


def read(spec: Path | str) -> list[tuple[bytes, tuple[str, ...]]]:
    return [(sample.image.read_bytes(), sample.texts) for sample in open_source(spec, require_text=True).samples]


def test_tars_hold_the_bytes_of_the_images_and_the_texts(scores: Path) -> None:
    selected = select(scores, shard_size=2)
    assert [path.name for path in selected.files] == [f"selected-0000{i}.tar" for i in range(3)]
    assert [pair for path in selected.files for pair in read(path)] == EXPECTED
    names = [member.name for member in tar_members(selected.files[1])]
    assert names == ["000000002.png", "000000002.json", "000000003.jpg", "000000003.json"]
    with tarfile.open(selected.files[0]) as tar:
        file = tar.extractfile("000000000.json")
        assert file is not None
        first = json.load(file)
    assert first == {
        "key": "cc-0.tar/000",
        "captions": ["text 0", "synthetic 0"],
        "kinds": ["web", "synthetic"],
        "scores": [0.9, 0.8],
        "sha256": hashlib.sha256(png(0)).hexdigest(),
        "license": "L0",
    }


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_tables_point_to_files_and_members_of_tars(scores: Path, format: Any) -> None:
    selected = select(scores, format=format)
    assert selected.files == (scores / f"selected.{format}",)
    assert read(selected.files[0]) == EXPECTED


def test_a_table_in_the_folder_above_its_images_can_be_moved_with_them(tmp_path: Path, scores: Path) -> None:
    select(scores, tmp_path, format="jsonl")
    images = [json.loads(line)["image"] for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    assert images == [*(f"in/cc-0.tar/00{i}.png" for i in (0, 1, 3)), "photos/a.jpg", "photos/b.jpg"]


def test_a_json_list_has_an_object_per_text_like_the_originals(scores: Path) -> None:
    (path,) = select(scores, format="json", where='"offset" is null').files
    rows = load_json(path)
    assert [(Path(row["image"]).name, row["caption"]) for row in rows] == [("a.jpg", "web a"), ("b.jpg", "human b")]
    assert all(set(row) == {"image", "caption"} for row in rows)
    (path,) = select(scores, format="json", overwrite=True).files
    assert [texts for _, texts in read(path)] == [(text,) for _, texts in EXPECTED for text in texts]


def test_parquet_has_the_columns_of_an_image(scores: Path) -> None:
    table = pyarrow.parquet.read_table(select(scores, format="parquet").files[0])
    assert table.column_names[:7] == ["image", "offset", "size", "key", "captions", "kinds", "scores"]
    assert table.column("license").to_pylist() == ["L0", "L2", "L4", None, None]
    assert table.column("scores").to_pylist()[-1] == [None]


def test_images_inside_a_table_are_copied_into_tars(tmp_path: Path) -> None:
    table = tmp_path / "embedded.parquet"
    images = [png(i) for i in range(6)]
    columns = {"photo": images, "caption": [f"text {i}" for i in range(6)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), table, row_group_size=2)
    rows = [
        text_row(f"k{i}", "web", f"text {i}", 0.9, shard=str(table), image=None, row=i + 1) for i in range(6) if i != 2
    ]
    folder = write_scores(tmp_path / "out", rows[:2], rows[2:])
    write_units(folder, Unit(name="00000", source=str(table), size=table.stat().st_size), columns={"image": "photo"})
    (path,) = select(folder).files
    assert read(path) == [(images[i], (f"text {i}",)) for i in (0, 1, 3, 4, 5)]
    with pytest.raises(UsageError, match=r"contains its images, to which a table cannot point; choose --format tar"):
        select(folder, tmp_path / "table", format="jsonl")
    assert not list((tmp_path / "table").iterdir())


def test_selection_json_has_all_counts_and_a_command_that_repeats_it(tmp_path: Path, scores: Path) -> None:
    options: dict[str, Any] = {
        "threshold_web": 0.3,
        "drop_duplicates": ["url", "bytes"],
        "where": "itc > 0.1",
        "limit": 9,
    }
    selected = select(scores, tmp_path / "it's", **options)
    record = load_json(tmp_path / "it's" / SELECTION)
    assert record == selected.record
    assert record["command"] == (
        f"blip capfilt select {scores} -o '{tmp_path}/it'\"'\"'s' --threshold-web 0.3 --where 'itc > 0.1' "
        "--drop-duplicates url,bytes --limit 9"
    )
    assert record["thresholds"] == {"web": 0.3, "synthetic": 0.5}
    assert (record["rows"], record["files"]) == (7, ["selected-00000.tar"])
    assert record["images"]["kept"] == 5 and record["texts"]["web"]["dropped"]["where"] == 1
    for counts in record["texts"].values():
        assert counts["total"] == counts["kept"] + sum(counts["dropped"].values())
    images = record["images"]
    assert images["total"] == images["kept"] + sum(images["dropped"].values()) + sum(images["failed"].values())


@pytest.mark.parametrize("format", ["tar", "jsonl"])
def test_an_image_that_is_gone_is_reported_and_the_others_are_written(
    scores: Path, tmp_path: Path, format: Any
) -> None:
    (tmp_path / "photos/a.jpg").unlink()
    failures: list[UnreadableImage] = []
    selected = select(scores, format=format, on_failure=failures.append)
    assert [str(error) for error in failures] == [f"a: {tmp_path}/photos/a.jpg: no such file"]
    assert read(selected.files[0]) == [EXPECTED[i] for i in (0, 1, 2, 4)]
    assert selected.failed == selected.record["images"]["dropped"]["unreadable"] == 1
    assert (selected.record["images"]["kept"], selected.record["texts"]["web"]["kept"]) == (4, 3)


@pytest.mark.parametrize("format", ["tar", "parquet"])
def test_of_a_tar_that_is_gone_every_selected_image_is_reported(scores: Path, shard: Path, format: Any) -> None:
    shard.unlink()
    failures: list[UnreadableImage] = []
    selected = select(scores, format=format, on_failure=failures.append)
    assert [error.key for error in failures] == [f"cc-0.tar/00{i}" for i in (0, 1, 3)]
    assert read(selected.files[0]) == EXPECTED[3:]


def test_an_image_that_has_changed_is_not_written(scores: Path, tmp_path: Path) -> None:
    (tmp_path / "photos/a.jpg").write_bytes(png(77))
    failures: list[UnreadableImage] = []
    select(scores, on_failure=failures.append)
    assert [str(error) for error in failures] == [f"a: {tmp_path}/photos/a.jpg: has changed since it was scored"]


def test_the_bytes_are_the_same_on_every_run(scores: Path, tmp_path: Path) -> None:
    for format in ("tar", "json", "jsonl", "parquet"):
        folders = [tmp_path / f"{format}{i}" for i in range(2)]
        for i, folder in enumerate(folders):
            select(scores, folder, format=format, threads=1 + 3 * i)
        (first,), (second,) = ([f.read_bytes() for f in sorted(folder.glob("selected*"))] for folder in folders)
        assert first == second


def test_scores_of_several_folders_are_united(scores: Path, tmp_path: Path) -> None:
    other = write_scores(tmp_path / "human", [text_row("h", "human", "h", None, image=str(tmp_path / "photos/b.jpg"))])
    (path,) = select([other, scores], tmp_path / "both", format="jsonl").files
    assert [texts for _, texts in read(path)] == [("h",), *(texts for _, texts in EXPECTED)]
    with pytest.raises(UsageError, match="name each folder of scores once"):
        select([scores, scores], tmp_path / "twice")


def test_shards_that_are_not_scored_yet_are_counted(scores: Path) -> None:
    write_units(
        scores, *(Unit(name=name, source=f"{name}.tar", size=1) for name in ("00000", "00001", "00002", "00003"))
    )
    assert select(scores).record["missing_shards"] == 2


def test_an_earlier_selection_is_replaced_only_on_request(scores: Path) -> None:
    (scores / "notes.txt").write_text("mine")
    select(scores, shard_size=1)
    before = {path: path.read_bytes() for path in scores.glob("selected*")}
    with pytest.raises(UsageError, match=rf"{scores}/selected-00000.tar exists; choose another folder \(-o\) or give"):
        select(scores)
    select(scores, format="json", overwrite=True)
    assert sorted(os.listdir(scores)) == ["notes.txt", "scores", "selected.json", "selection.json"] and len(before) == 5


def test_a_selection_that_fails_leaves_the_earlier_one(scores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    select(scores)
    before = {path.name: path.read_bytes() for path in scores.iterdir() if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(EnvironmentProblem, match="no space left on the disk"):
        select(scores, overwrite=True)
    assert {path.name: path.read_bytes() for path in scores.iterdir() if path.is_file()} == before
    assert sorted(path.name for path in scores.iterdir() if path.is_dir()) == ["scores"]


def test_two_selections_never_write_to_one_folder(scores: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "x", folder=True), pytest.raises(UsageError, match="another run is writing to it"):
        select(scores, tmp_path / "x")


def test_a_selection_without_any_readable_image_is_an_error(scores: Path, tmp_path: Path, shard: Path) -> None:
    shard.unlink()
    for path in (tmp_path / "photos").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match=r"none of the 5 selected images can be read; first: .*cc-0.tar/000"):
        select(scores)
    assert not list(scores.glob("selected*"))


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("itc >", 'syntax error at or near ">"'),
        ("width + 1", "a value of type INTEGER, not true or false"),
        ("nosuch > 1", 'Referenced column "nosuch" not found in FROM clause'),
        ("sum(itc) > 1", "WHERE clause cannot contain aggregates"),
        ("itc > 0; drop table kept", "it holds more than one statement"),
        ("1 = 1) or (2 = 2", "syntax error"),
        ("itc > 'high'::int", "Could not convert string 'high' to INT32"),
    ],
)
def test_a_bad_condition_is_one_line_with_the_allowed_columns(scores: Path, condition: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        select(scores, where=condition)
    message = str(error.value)
    assert message.startswith(f"where '{condition}': ") and reason in message and "\n" not in message
    assert message.endswith("logprob, tokens, error, license")
    assert sorted(os.listdir(scores)) == ["scores"]


def test_files_that_are_not_scores_are_refused(scores: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no score files in scores/; 'blip capfilt run' writes them"):
        select(tmp_path / "nothing", tmp_path / "x")
    other = scores / "scores/x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), other)
    with pytest.raises(UsageError, match=r"x.parquet: not a score file of 'blip capfilt run'"):
        select(scores)
    other.write_bytes(b"not parquet at all, just text")
    with pytest.raises(UsageError, match=r"score files cannot be read \(.*x.parquet"):
        select(scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "much"}, "memory much; must be a size such as 500MB or 8GB"),
        ({"format": "csv"}, "format csv; must be one of tar, json, jsonl, parquet"),
        ({"output": "x.tar"}, "-o x.tar; must be a folder"),
        ({"threshold_web": "high"}, "threshold_web high; must be a number from 0 to 1, or a share"),
    ],
)
def test_invalid_options_are_one_line(scores: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        select(scores, **options)
    assert str(error.value).startswith(message)
