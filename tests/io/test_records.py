"""Record files: formats, resuming, content after a failure."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from blip.io.record_files import must_write, open_records
from blip.io.records import clean, error_record, image_id, to_json
from blip_lite.errors import EnvironmentProblem, UnreadableImage, UsageError
from tests.io.test_schemas import EXAMPLES

CAPTION = EXAMPLES["caption"]


def caption(key: str, text: str = "a dog") -> dict[str, Any]:
    return {"schema": "caption/1", "key": key, "text": text, "score": -0.25, "model": "m"}


def failed(key: str) -> dict[str, Any]:
    return error_record("caption/1", key, UnreadableImage(key, "empty file"))


def write(path: Path | None, *batches: list[dict[str, Any]], schema: str = "caption/1", **how: Any) -> str:
    """Return the content of the file or stream afterwards."""
    stream = how.pop("stream", None) or io.StringIO()
    with open_records(path, schema=schema, stream=stream, **how) as out:
        for batch in batches:
            out.write(batch)
    return path.read_text("utf-8") if path is not None and path.suffix != ".parquet" else stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_values_have_six_digits_and_no_missing_entries() -> None:
    record = {"b": np.float32(0.1), "a": -1 / 3, "none": None, "nan": float("nan"), "v": np.ones(2), "p": Path("x")}
    assert to_json(record) == '{"b":0.1,"a":-0.333333,"v":[1.0,1.0],"p":"x"}'
    assert clean({"t": "é\n", "l": [None, 1]}) == {"t": "é\n", "l": [None, 1]}
    assert to_json({"t": "a\u2028b\nc"}).count("\n") == 0 and len(to_json({"t": "\u2028"}).splitlines()) == 1


def test_text_is_tab_separated_when_piped() -> None:
    assert write(None, [caption("a.jpg", "tab\there\nline"), failed("b.jpg")]) == "a.jpg\ttab here line\n"


def test_text_of_a_single_input_is_the_value_only() -> None:
    assert write(None, [caption("a.jpg")], single=True) == "a dog\n"


def test_text_on_a_terminal_is_aligned() -> None:
    batches = [caption("a.jpg"), caption("中.jpg")], [caption("long.jpg")]
    assert write(None, *batches, stream=Terminal()).splitlines() == [
        "key     text",
        "a.jpg   a dog",
        "中.jpg  a dog",
        "long.jpg  a dog",
    ]


def test_jsonl_is_flushed_per_batch_and_holds_errors(tmp_path: Path) -> None:
    path = tmp_path / "new" / "o.jsonl"
    with open_records(path, schema="caption/1", stream=io.StringIO()) as out:
        out.write([caption("a"), failed("b")])
        assert [json.loads(line) for line in path.read_text().splitlines()] == [caption("a"), failed("b")]


def test_csv_and_tsv_have_a_header_and_json_for_nested_fields(tmp_path: Path) -> None:
    for name, mark in (("o.csv", ","), ("o.tsv", "\t")):
        text = write(tmp_path / name, [CAPTION, failed("b")])
        rows = list(csv.DictReader(io.StringIO(text), delimiter=mark))
        assert list(rows[0]) == [*CAPTION, "error"] and rows[0]["text"] == CAPTION["text"]
        assert json.loads(rows[0]["params"]) == CAPTION["params"]
        assert json.loads(rows[1]["error"])["reason"] == "empty file" and "\r" not in text


def test_parquet_keeps_lists_and_structs(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "o.parquet", [failed("b")], [{**CAPTION, "alternatives": []}, CAPTION])
    rows = parquet.read_table(tmp_path / "o.parquet").to_pylist()
    assert list(rows[0]) == [*CAPTION, "error"] and rows[0]["error"]["type"] == "UnreadableImage"
    assert rows[2]["params"] == CAPTION["params"] and rows[2]["alternatives"] == CAPTION["alternatives"]


def test_parquet_vectors_have_a_fixed_size(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    record = {**EXAMPLES["embedding"], "vector": np.array([0.5, 1.0], np.float32), "dim": 2}
    write(tmp_path / "o.parquet", [record] * 3, schema="embedding/1")
    table = parquet.read_table(tmp_path / "o.parquet")
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[2]"
    assert table["vector"].to_pylist() == [[0.5, 1.0]] * 3


@pytest.mark.parametrize("name", ["o.csv", "o.tsv", "o.parquet", "o.jsonl", "o.txt"])
def test_no_records_make_an_empty_file(name: str, tmp_path: Path) -> None:
    if name == "o.parquet":
        pytest.importorskip("pyarrow")
    write(tmp_path / name)
    assert (tmp_path / name).exists()


def test_coco_lists_image_numbers_of_captions_only(tmp_path: Path) -> None:
    text = write(tmp_path / "o.json", [caption("v/COCO_val2014_000000391895.jpg"), failed("b")], format="coco")
    assert json.loads(text) == [{"image_id": 391895, "caption": "a dog"}]
    assert [image_id(key) for key in ("000123.png", "s.tar/07", "img12.jpg")] == [123, 7, "img12.jpg"]
    with pytest.raises(UsageError, match="--format coco"):
        write(None, schema="match/1", format="coco")


@pytest.mark.parametrize("name", ["o.csv", "o.txt"])
def test_a_failed_run_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("old")
    with (
        pytest.raises(ZeroDivisionError),
        open_records(path, schema="caption/1", stream=io.StringIO(), existing="overwrite") as out,
    ):
        out.write([caption("a")])
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert read_lines(tmp_path / f"{name}.part.jsonl") == [caption("a")]


def test_a_failed_run_without_results_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        open_records(tmp_path / "o.csv", schema="caption/1", stream=io.StringIO()),
    ):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["o.csv", "o.txt", "o.json", "o.parquet", "o.npz"])
def test_a_run_that_ended_early_is_continued(name: str, tmp_path: Path) -> None:
    """The result equals that of an uninterrupted run; without --resume or --overwrite nothing is lost."""
    schema = "embedding/1" if name == "o.npz" else "caption/1"
    rows = [vector(k) if name == "o.npz" else caption(k) for k in "abc"]
    whole, path = tmp_path / "whole" / name, tmp_path / name
    write_rows(whole, rows, schema)
    with (
        pytest.raises(KeyboardInterrupt),
        open_records(path, schema=schema, stream=io.StringIO()) as out,
    ):
        out.write([rows[1]])
        raise KeyboardInterrupt
    assert not path.exists() and out.unfinished == tmp_path / f"{name}.part.jsonl"
    with pytest.raises(UsageError, match=r"part\.jsonl holds the results of an unfinished run; use --resume"):
        write_rows(path, rows, schema)
    with open_records(path, schema=schema, stream=io.StringIO(), resume=True, order=list("abc")) as out:
        assert out.done == {"b"}
        out.write([rows[0], rows[2]])
    assert path.read_bytes() == whole.read_bytes() and not out.unfinished.exists()
    with pytest.raises(UsageError, match=f"{name} exists; use --overwrite or --skip-existing$"):
        write_rows(path, rows, schema, resume=True)


def write_rows(path: Path, rows: list[dict[str, Any]], schema: str, **how: Any) -> None:
    with open_records(path, schema=schema, stream=io.StringIO(), **how) as out:
        out.write(rows)


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_vectors_keep_all_their_bits(tmp_path: Path) -> None:
    for name, load in (("o.npz", np.load), ("o.safetensors", safetensors.numpy.load_file)):
        error = error_record("embedding/1", "b", UnreadableImage("b", "x"))
        write_rows(tmp_path / name, [vector("a"), error], "embedding/1")
        assert np.array_equal(load(tmp_path / name)["vectors"], [vector("a")["vector"]])


def vector(key: str) -> dict[str, Any]:
    values = np.random.RandomState(ord(key)).rand(5).astype(np.float32)
    return {**EXAMPLES["embedding"], "key": key, "vector": values, "dim": 5}


def test_a_json_file_is_a_list(tmp_path: Path) -> None:
    assert json.loads(write(tmp_path / "o.json", [caption("a"), failed("b")])) == [caption("a"), failed("b")]
    assert json.loads(write(tmp_path / "empty.json")) == []


def test_alternatives_are_lines_of_the_text_form() -> None:
    record = {**caption("a.jpg", "a dog"), "alternatives": [{"text": "a cat", "score": -1.0}]}
    assert write(None, [record, caption("b.jpg")]) == "a.jpg\ta dog\na.jpg\ta cat\nb.jpg\ta dog\n"
    assert write(None, [record], single=True) == "a dog\na cat\n"


def test_a_terminal_gets_no_control_characters() -> None:
    key = "a\x1b[31m\u202e.jpg"
    assert write(None, [caption(key)], stream=Terminal()).splitlines()[1] == "a\\x1b[31m\\u202e.jpg  a dog"
    assert write(None, [caption(key)]) == f"{key}\ta dog\n"


@pytest.mark.parametrize("name", ["a.xlsx", "a.jsonl.gz", "a.h5", "a.pt", "a", "a.npz", "a.md"])
def test_an_unknown_ending_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"-o .*; must be one of \.jsonl, \.ndjson, \.json, \.csv"):
        write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_vectors_are_not_written_as_text(tmp_path: Path) -> None:
    for name in ("a.txt", "a", "a.pt"):
        with pytest.raises(UsageError, match=r"must be one of .*\.npz, \.safetensors"):
            write(tmp_path / name, schema="embedding/1")


def test_a_format_and_an_ending_must_agree(tmp_path: Path) -> None:
    for name, format in (("a.parquet", "csv"), ("a.csv", "coco"), ("a.txt", "jsonl")):
        with pytest.raises(UsageError, match=f"--format {format} with -o .*{name}; must be"):
            write(tmp_path / name, format=format)
    assert write(tmp_path / "a.dat", [caption("k")], format="csv").startswith("schema,key,text")


def test_a_full_disk_keeps_the_results_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(EnvironmentProblem, match=r"o\.csv: no space left .*; --resume continues with"):
        write(tmp_path / "o.csv", [caption("a")])
    monkeypatch.undo()
    assert "a dog" in write(tmp_path / "o.csv", resume=True)


def test_an_output_that_fails_is_named() -> None:
    full = pytest.raises(EnvironmentProblem, match="standard output: no space left")
    with open("/dev/full", "wb", buffering=0) as stream, full:
        write(None, [caption("a")], stream=stream)
    for name in ("csv", "jsonl", "text"):
        with pytest.raises(EnvironmentProblem, match="/dev/full: no space left"):
            write(Path("/dev/full"), [caption("a")], format=name)


def test_existing_files_are_rejected_skipped_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    assert must_write(path, "jsonl") and must_write(None, "jsonl")
    path.write_text("old\n")
    with pytest.raises(UsageError, match=r"o.jsonl exists; use --overwrite"):
        write(path)
    assert not must_write(path, "jsonl", existing="skip") and must_write(path, "jsonl", resume=True)
    assert write(path, [caption("a")], existing="overwrite") == to_json(caption("a")) + "\n"


def test_resumed_file_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    order = [f"k{i}" for i in range(6)]
    records = [failed(k) if k == "k1" else caption(k) for k in order]
    whole = write(tmp_path / "whole.jsonl", records)
    for cut in range(0, len(whole) + 1, 7):
        path = tmp_path / "o.jsonl"
        path.write_text(whole[:cut])
        with open_records(path, schema="caption/1", stream=io.StringIO(), resume=True, order=order) as out:
            assert "k1" not in out.done
            for record in records:
                if record["key"] not in out.done:
                    out.write([record])
        assert path.read_text() == whole


def test_resume_redoes_keys_with_too_few_records(tmp_path: Path) -> None:
    pair = {"schema": "match/1", "key": "a", "text": "t", "text_index": 0, "model": "m"}
    path = tmp_path / "o.jsonl"
    write(path, [pair, {**pair, "text_index": 1}, {**pair, "key": "b"}], schema="match/1")
    with open_records(path, schema="match/1", stream=io.StringIO(), resume=True, per_key=2) as out:
        assert out.done == {"a"}
    assert len(path.read_text().splitlines()) == 2


def test_resume_rejects_other_records_and_formats(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    write(path, [caption("a")])
    before = path.read_text()
    with pytest.raises(UsageError, match="holds caption/1 records; --resume needs match/1"):
        write(path, schema="match/1", resume=True)
    assert path.read_text() == before
    with pytest.raises(UsageError, match="--resume; must be used with -o FILE"):
        write(None, resume=True)
    with pytest.raises(UsageError, match="--format xml; must be one of text"):
        write(None, format="xml")


def test_cells_of_a_csv_file_are_unchanged(tmp_path: Path) -> None:
    """Formulas too: other programs read back what was written (docs/output.md)."""
    texts = ["=1+1", "+a", "-b", "@c", '"quoted", with comma']
    text = write(tmp_path / "o.csv", [caption(f"k{i}", t) for i, t in enumerate(texts)])
    assert [row["text"] for row in csv.DictReader(io.StringIO(text))] == texts
