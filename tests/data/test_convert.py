"""Every format restores the same rows; rows that cannot be written raise errors and leave no files."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from blip.data.convert import Converted, convert
from blip.data.sources import SampleList, open_source
from blip.io.columns import Columns
from blip_lite.errors import BadRecord, UsageError
from tests.data.test_sources import png, tar_sample, write_json, write_tar

ROWS = [
    {"image": "a.png", "caption": ['one, "two"', "drei\tüöä"], "image_id": 7, "source": "x"},
    {"image": "sub/b.png", "caption": "[not a list]", "image_id": 8, "source": None},
    {"image": "c.png", "image_id": 9, "source": "y"},
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "in/sub").mkdir(parents=True)
    for i, row in enumerate(ROWS):
        (tmp_path / "in" / str(row["image"])).write_bytes(png(i + 1))
    return write_json(tmp_path / "in/data.json", ROWS)


def write(source: Path | str, target: Path, columns: Columns | None = None, **how: Any) -> Converted:
    return convert([str(source)], columns or Columns(), target, **how)


def content(source: SampleList) -> list[tuple[bytes, tuple[str, ...]]]:
    return sorted((sample.image.read_bytes(), sample.texts) for sample in source.samples)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["o.jsonl", "o.json", "o.csv", "o.tsv", "o.parquet", "o.tar", "o"])
@pytest.mark.parametrize("through", ["in", "in.tar", "in.parquet"])
def test_every_format_restores_images_and_texts(tmp_path: Path, table: Path, name: str, through: str) -> None:
    if name.endswith("parquet") or through.endswith("parquet"):
        pytest.importorskip("pyarrow")
    source: Path | str = table
    if through == "in.tar":
        source = str(write(table, tmp_path / "s.tar").paths[0])
    elif through == "in.parquet":
        source = write(write(table, tmp_path / "s.tar").paths[0], tmp_path / "bytes.parquet").paths[0]
    done = write(source, tmp_path / "out" / name)
    assert (done.rows, done.skipped) == (3, 0)
    assert content(open_source(str(done.paths[0]))) == content(open_source(table))


@pytest.mark.parametrize("name", ["o.jsonl", "o.json", "o.parquet", "o.tar"])
def test_key_and_other_columns_are_kept(tmp_path: Path, table: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    source = open_source(str(write(table, tmp_path / name).paths[0]), key_column="key")
    assert [sample.key for sample in source.samples] == ["a.png", "sub/b.png", "c.png"]
    assert [sample.fields["image_id"] for sample in source.samples] == [7, 8, 9]
    assert [sample.fields.get("source") for sample in source.samples] == ["x", None, "y"]


def test_a_json_list_has_the_layout_of_the_original(tmp_path: Path, table: Path) -> None:
    write(table, tmp_path / "o.json")
    assert json.loads((tmp_path / "o.json").read_text())[:2] == [
        {"key": "a.png", "image": "in/a.png", "caption": ['one, "two"', "drei\tüöä"], "image_id": 7, "source": "x"},
        {"key": "sub/b.png", "image": "in/sub/b.png", "caption": "[not a list]", "image_id": 8, "source": None},
    ]


def test_paths_are_relative_below_the_table_and_absolute_elsewhere(tmp_path: Path, table: Path) -> None:
    write(table, table.parent / "beside.jsonl")
    write(table, tmp_path / "far/away.jsonl")
    beside, away = (
        json.loads(p.read_text().splitlines()[0]) for p in (tmp_path / "in/beside.jsonl", tmp_path / "far/away.jsonl")
    )
    assert "key" not in beside and beside["image"] == "a.png"
    assert (away["key"], away["image"]) == ("a.png", f"{tmp_path}/in/a.png")


def test_shards_have_the_requested_size_and_numbered_samples(tmp_path: Path, table: Path) -> None:
    done = write(table, tmp_path / "o.tar", shard_size=2)
    assert [path.name for path in done.paths] == ["o-000000.tar", "o-000001.tar"]
    with tarfile.open(done.paths[1]) as tar:
        assert tar.getnames() == ["000000002.png", "000000002.json"]
    assert len(open_source(f"{tmp_path}/o-{{000000..000001}}.tar")) == 3


def test_conversions_are_deterministic(tmp_path: Path, table: Path) -> None:
    first, second = (write(table, tmp_path / name / "o.tar").paths[0].read_bytes() for name in "ab")
    assert first == second


def test_images_of_shards_are_written_beside_a_table(tmp_path: Path, table: Path) -> None:
    shard = write(table, tmp_path / "s.tar").paths[0]
    done = write(shard, tmp_path / "o.csv")
    assert done.paths == (tmp_path / "o.csv", tmp_path / "o-images")
    assert left(tmp_path / "o-images") == ["000000000.png", "000000001.png", "000000002.png"]


def test_a_folder_keeps_texts_and_merges_rows_of_an_image(tmp_path: Path, table: Path) -> None:
    rows = [{"image": "a.png", "caption": text, "n": 1} for text in ("one\nline", "two")]
    done = write(write_json(table.parent / "coco.json", rows), tmp_path / "o")
    assert (done.rows, done.dropped, left(tmp_path / "o")) == (2, ("n",), ["a.png", "a.txt"])
    assert (tmp_path / "o/a.txt").read_text() == "one line\ntwo\n"


def test_different_images_with_one_key_get_different_names(tmp_path: Path) -> None:
    for i, name in enumerate(("a.png", "b.png")):
        (tmp_path / name).write_bytes(png(i))
    rows = [{"key": "k", "image": name, "caption": name} for name in ("a.png", "b.png", "a.png")]
    write(write_json(tmp_path / "d.json", rows), tmp_path / "o")
    source = open_source(tmp_path / "o")
    assert [(r.key, r.texts) for r in source.samples] == [("k-2.png", ("b.png",)), ("k.png", ("a.png", "a.png"))]


@pytest.mark.parametrize("key", ["../../up", "/abs/up", ".hidden/.up", "a\0:b", "..", "a/../../up"])
def test_no_key_leaves_the_folder_or_is_hidden(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    path = write_json(tmp_path / "d.json", [{"key": key, "image": "a.png", "caption": "x"}])
    write(path, tmp_path / "deep/o")
    assert len(open_source(tmp_path / "deep/o")) == 1
    assert left(tmp_path) == ["a.png", "d.json", "deep"] and left(tmp_path / "deep") == ["o"]


def test_columns_named_like_image_or_text_are_renamed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    path = write_json(tmp_path / "d.json", [{"file": "a.png", "image": "thumb", "alt": "good", "caption": "old"}])
    write(path, tmp_path / "o.jsonl", Columns(image="file", text="alt"))
    (sample,) = open_source(tmp_path / "o.jsonl").samples
    assert sample.texts == ("good",) and sample.image.path == tmp_path / "a.png"
    assert sample.fields == {"other_image": "thumb", "other_caption": "old"}


def test_pairs_and_lists_of_answers_are_kept_by_formats_that_can_hold_them(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    pair = {"images": ["a.png", "a.png"], "sentence": "s", "label": "True"}
    vqa = {"image": "a.png", "question": "q", "answer": ["yes"] * 9 + ["no"], "question_id": 3}
    path = write_json(tmp_path / "d.json", [pair, vqa])
    write(path, tmp_path / "o.jsonl")
    two, vqa_sample = open_source(tmp_path / "o.jsonl").samples
    assert len(two.images) == 2 and two.fields == {"images": ["a.png"] * 2, "sentence": "s", "label": "True"}
    assert vqa_sample.fields["answer"] == vqa["answer"] and vqa_sample.fields["question_id"] == 3
    for name, reason in (("o.csv", "two images in a row"), ("o.tar", "two images"), ("o", "two images")):
        with pytest.raises(BadRecord, match=reason):
            write(path, tmp_path / name)
    with pytest.raises(BadRecord, match="column 'answer' holds a list, which csv readers do not restore"):
        write(write_json(tmp_path / "v.json", [vqa]), tmp_path / "o.csv")


@pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.parquet", "o.tar", "o"])
def test_a_bad_row_stops_the_conversion_and_leaves_no_files(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    shard = write_tar(tmp_path / "s.tar", [*tar_sample("a", caption="x"), ("b.json", b"{}")])
    with pytest.raises(BadRecord, match=r"s\.tar/b: no image beside b\.json"):
        write(shard, tmp_path / name)
    assert left(tmp_path) == ["s.tar"]


@pytest.mark.parametrize("name", ["o.jsonl", "o.csv", "o.parquet", "o.tar", "o"])
def test_bad_rows_are_reported_once_and_left_out(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    members = [
        *tar_sample("a", caption="x"),
        ("b.json", b"{}"),
        ("c.png", png()),
        ("c.json", b"{"),
        *tar_sample("d", caption="y"),
    ]
    bad: list[BadRecord] = []
    done = write(write_tar(tmp_path / "s.tar", members), tmp_path / name, on_bad=bad.append)
    assert (done.rows, done.skipped) == (2, 2)
    assert [error.where for error in bad] == [f"{tmp_path}/s.tar/{stem}" for stem in "bc"]


@pytest.mark.parametrize("name", ["o.tar", "o"])
def test_a_missing_image_is_a_bad_row(tmp_path: Path, table: Path, name: str) -> None:
    (table.parent / "a.png").unlink()
    with pytest.raises(BadRecord, match=r"data\.json:1: .*a\.png: no such file"):
        write(table, tmp_path / name)
    bad: list[BadRecord] = []
    assert write(table, tmp_path / name, on_bad=bad.append).rows == 2 and len(bad) == 1


@pytest.mark.parametrize("name", ["o.jsonl", "o.tar", "o", "o.parquet"])
def test_nothing_is_overwritten(tmp_path: Path, table: Path, name: str) -> None:
    target = tmp_path / ("o-000003.tar" if name == "o.tar" else name)
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists; remove it or choose another name"):
        write(table, tmp_path / name)
    assert target.read_text() == "mine"


def test_other_targets_and_empty_sources_are_rejected(tmp_path: Path, table: Path) -> None:
    with pytest.raises(UsageError, match=r"must be a folder, \.tar or one of \.jsonl"):
        write(table, tmp_path / "o.xml")
    with pytest.raises(UsageError, match=r"must be a folder, \.tar or one of \.jsonl"):
        write(table, tmp_path / "o.arrow")  # read, but not written
    os.mkdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="holds no samples"):
        write(tmp_path / "empty", tmp_path / "o.jsonl")
    assert left(tmp_path) == ["empty", "in"]


def test_a_column_of_several_types_cannot_be_parquet(tmp_path: Path, table: Path) -> None:
    pytest.importorskip("pyarrow")
    path = write_json(table.parent / "m.json", [{"image": "a.png", "n": 1}, {"image": "a.png", "n": "x"}])
    with pytest.raises(UsageError, match="column 'n' holds values of different types"):
        write(path, tmp_path / "o.parquet")
    assert left(tmp_path) == ["in"]


def test_parquet_values_without_json_type_are_reported(tmp_path: Path, table: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"image": ["a.png"], "raw": [b"1"]}), table.parent / "r.parquet")
    with pytest.raises(BadRecord, match="a column cannot be written as JSON"):
        write(table.parent / "r.parquet", tmp_path / "o.jsonl")
