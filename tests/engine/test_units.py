"""Units of tars, tables and folders: what they contain, and that a table is read once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blip.engine.units import Unit, list_units, read
from blip.io import readers
from blip.io.columns import Columns
from blip.io.samples import Sample
from blip_lite.errors import UsageError
from tests.data.test_sources import png, tar_sample, write_tar

COLUMNS = Columns()


def keys(units: list[Unit], columns: Columns = COLUMNS) -> list[list[str]]:
    return [[result.key if isinstance(result, Sample) else result.reason for result in read(u, columns)] for u in units]


def write_table(path: Path, rows: int) -> str:
    lines = [{"image": f"{i}.png", "caption": f"text {i}"} for i in range(rows)]
    if path.suffix == ".json":
        path.write_text(json.dumps(lines))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n\n" for line in lines))  # empty lines are not rows
    elif path.suffix == ".csv":
        path.write_text("image,caption\n" + "".join(f'{i}.png,"text\n{i}"\n' for i in range(rows)))
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(lines), path, row_group_size=4)
    return str(path)


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".parquet"])
def test_a_table_is_split_into_units_of_some_rows(tmp_path: Path, ending: str) -> None:
    units = list_units([write_table(tmp_path / f"t{ending}", 7)], COLUMNS, rows=3)
    assert [(unit.name, unit.start, unit.rows) for unit in units] == [
        ("t-000000000", 0, 3),
        ("t-000000003", 3, 3),
        ("t-000000006", 6, 1),
    ]
    assert keys(units) == [["0.png", "1.png", "2.png"], ["3.png", "4.png", "5.png"], ["6.png"]]
    assert keys([units[2]]) == keys([units[2]]) == [["6.png"]] and keys([units[1]]) == [["3.png", "4.png", "5.png"]]


def test_a_table_of_one_unit_and_a_tar_have_their_own_names(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*tar_sample("x"), *tar_sample("y")])
    units = list_units([str(tmp_path / "a.tar"), write_table(tmp_path / "t.jsonl", 3)], COLUMNS, rows=3)
    assert [(unit.name, unit.rows) for unit in units] == [("a", None), ("t", 3)]
    assert keys(units) == [["a.tar/x", "a.tar/y"], ["0.png", "1.png", "2.png"]]


def test_units_in_order_read_a_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = list_units([write_table(tmp_path / "t.jsonl", 9)], COLUMNS, rows=2)
    opened: list[str] = []
    original = readers.read
    monkeypatch.setattr(readers, "read", lambda name, columns: opened.append(name) or original(name, columns))
    keys([units[0], units[2], units[4]])
    assert len(opened) == 1
    keys([units[1], units[0]])
    assert len(opened) == 3


def test_a_folder_is_split_into_units_of_some_images(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(png())
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    units = list_units([str(tmp_path)], COLUMNS, rows=2)
    assert keys(units) == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"]] and {unit.size for unit in units} == {5}
    assert [result.texts for result in read(units[1], COLUMNS) if isinstance(result, Sample)] == [
        ("text 2",),
        ("text 3",),
    ]


def test_files_that_cannot_be_read_are_units_with_the_reason(tmp_path: Path) -> None:
    write_tar(tmp_path / "cut.tar", [*tar_sample("x"), *tar_sample("y")])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[: 512 * 5 + 100])  # within a header
    write_tar(tmp_path / "between.tar", [*tar_sample("x"), *tar_sample("y")])
    (tmp_path / "between.tar").write_bytes((tmp_path / "between.tar").read_bytes()[: 512 * 6])  # after y.png
    (tmp_path / "text.tar").write_text("not a tar")
    (tmp_path / "empty.tar").touch()
    write_tar(tmp_path / "none.tar", [])
    (tmp_path / "bad.json").write_text('[{"image": "a.png"}, {"image"')
    names = ["cut.tar", "between.tar", "text.tar", "empty.tar", "none.tar", "bad.json"]
    read_keys = dict(zip(names, keys(list_units([str(tmp_path / name) for name in names], COLUMNS)), strict=True))
    assert read_keys["cut.tar"][:-1] == ["cut.tar/x"] and "may be incomplete" in read_keys["cut.tar"][-1]
    assert read_keys["between.tar"][:-1] == ["between.tar/x"] and "sample 'y' may be" in read_keys["between.tar"][-1]
    assert all("not a readable tar" in read_keys[name][0] for name in ("text.tar", "empty.tar")), read_keys
    assert read_keys["none.tar"] == ["holds no samples"]
    assert read_keys["bad.json"][0] == "a.png" and "not JSON" in read_keys["bad.json"][1]


def test_rows_after_a_damaged_row_group_are_read(tmp_path: Path) -> None:
    path = Path(write_table(tmp_path / "t.parquet", 12))
    column = pytest.importorskip("pyarrow.parquet").read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    at = column.dictionary_page_offset or column.data_page_offset
    data[at : at + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    units = list_units([str(path)], COLUMNS, rows=5)
    rows = [key for part in keys(units) for key in part]
    assert len(units) == 3 and "damaged rows in row group 1" in rows.pop(4)
    assert rows == [f"{i}.png" for i in (0, 1, 2, 3, 8, 9, 10, 11)]


@pytest.mark.parametrize("name", ["missing.tar", "missing.jsonl", "photo.png", "folder"])
def test_names_without_data_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "photo.png").write_bytes(png())
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"no such file|not a data source|holds no samples"):
        list_units([str(tmp_path / name)], COLUMNS)
