"""Tables row by row: JSON lists are read in parts, with the values and errors of a complete read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip.io import table_reader
from blip.io.columns import Columns
from blip_lite.errors import UnreadableImage, UsageError

TRICKY = (
    '\ufeff [ {"image": "a\\u00e9\\ud83d\\ude00.jpg", "n": [1.5e3, -0, true, null, {}]},\n'
    '{"image": "ü \\\\\\" ]},{", "caption": ["x", "y"]}\r\n, 12, "]", [], {"image":"😀"}\t]\n'
)


def values(path: Path) -> list[Any]:
    return [row.values if row.problem is None else row.problem for row in table_reader.rows(path, None)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000])
def test_parts_of_any_size_equal_the_complete_list(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_reader, "_JSON_CHARACTERS", size)
    path = tmp_path / "a.json"
    path.write_text(TRICKY, encoding="utf-8")
    whole = json.loads(TRICKY.removeprefix("\ufeff"))
    kinds = {int: "int", str: "str", list: "list"}
    assert values(path) == [
        value if isinstance(value, dict) else f"not a JSON object but {kinds[type(value)]}" for value in whole
    ]
    assert [row.where for row in table_reader.rows(path, None)] == [f"{path}:{i}" for i in range(1, 7)]


@pytest.mark.parametrize("size", [5, 1000])
def test_a_truncated_list_is_an_error_with_its_line(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_reader, "_JSON_CHARACTERS", size)
    path = tmp_path / "a.json"
    text = TRICKY.removeprefix("\ufeff").rstrip()
    for length in range(2, len(text)):
        path.write_text(text[:length], encoding="utf-8")
        with pytest.raises(json.JSONDecodeError) as whole:
            json.loads(text[:length])
        with pytest.raises(UsageError, match=rf"a\.json:{whole.value.lineno}: not JSON"):
            values(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"image": 1} {}]', "1: not JSON .Expecting ',' delimiter"),
        ('[{"image": 1},\n]', "2: not JSON .Expecting value"),
        ('[{"image": 1}]\n\n{}', "3: not JSON .Extra data"),
        ('[\n{"image": tru}, {}]', "2: not JSON .Expecting value"),
        ("", "must be a JSON list"),
        ('{"images": []}', "must be a JSON list"),
    ],
)
def test_invalid_lists_name_line_and_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        values(path)


def test_first_rows_do_not_need_the_rest_of_the_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"image": "a"}, ' + " " * table_reader._JSON_CHARACTERS + "no JSON")
    rows = table_reader.rows(path, None)
    assert next(rows).values == {"image": "a"}
    with pytest.raises(UsageError, match="not JSON"):
        next(rows)


def test_the_image_column_may_have_another_name_or_be_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,caption\nhttp://a/1.jpg,x\n")
    with pytest.raises(UsageError, match="has no column 'file'; columns are url, caption"):
        list(table_reader.rows(tmp_path / "a.csv", Columns(image="file")))
    assert [row.values for row in table_reader.rows(tmp_path / "a.csv", None)] == [
        {"url": "http://a/1.jpg", "caption": "x"}
    ]


def test_parquet_image_bytes_are_read_on_demand(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"photo": [b"1", b"2"], "image": ["a", "b"]}), tmp_path / "a.parquet")
    _, second = table_reader.rows(tmp_path / "a.parquet", Columns(image="photo"))
    assert second.values["image"] == "b" and second.values["photo"].read() == b"2"


def test_hugging_face_image_column_holds_bytes_or_a_path(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    rows = [{"bytes": b"1", "path": "gone.jpg"}, {"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": "gone.jpg"}]
    parquet.write_table(arrow.table({"image": arrow.array([*rows, None], kind)}), tmp_path / "a.parquet")
    (tmp_path / "a.jpg").write_bytes(b"2")
    cells = [row.values["image"] for row in table_reader.rows(tmp_path / "a.parquet", Columns())]
    assert [cell.read() for cell in cells[:2]] == [b"1", b"2"]
    with pytest.raises(UnreadableImage, match=r"gone\.jpg: no such file"):
        cells[2].read()
    with pytest.raises(UnreadableImage, match="no image bytes in this row"):
        cells[3].read()
