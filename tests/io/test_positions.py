"""A row read alone at its position equals the row read with its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blip.io import readers, table_reader
from blip.io.columns import Columns, ReadResult
from blip.io.row import Position
from blip_lite.errors import BadRecord, UsageError
from tests.data.test_sources import png, tar_sample, write_tar

ROWS = [{"image": f"{i}.jpg", "caption": f"naïve 猫 {i}", "n": i} for i in range(5)]


def write_jsonl(path: Path) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_bytes(("\ufeff" + "\r\n\n".join([*lines[:3], "[1]", "{", *lines[3:]])).encode())
    return path


def write_list(path: Path) -> Path:
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in [*ROWS, [1]])
    path.write_bytes(("\ufeff \n [ " + rows + " ]\n").encode())
    return path


def write_shard(path: Path) -> Path:
    members = [*tar_sample("a", caption="x"), ("._a.png", b"-"), ("b.txt", b"no image"), *tar_sample("a", text="y")]
    members += [("x/" + 120 * "é" + ".png", png()), ("x/" + 120 * "é" + ".txt", b"one\ntwo")]
    return write_tar(path, [*members, ("c.left.png", png(1)), ("c.right.png", png(2)), ("c.txt", b"z")])


def write_parquet(path: Path, *, groups: int = 2, cells: bool = True) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images: list[Any] = [png(i) for i in range(5)] if cells else [f"{i}.jpg" for i in range(5)]
    texts = [f"猫 {i}" for i in range(4)] + [None]
    parquet.write_table(arrow.table({"image": images, "caption": texts}), path, row_group_size=groups)
    return path


def write_arrow(path: Path) -> Path:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"image": [png(i) for i in range(5)], "caption": list("abcde")})
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "a.jsonl": write_jsonl,
    "a.json": write_list,
    "a.tar": write_shard,
    "a.parquet": write_parquet,
    "paths.parquet": lambda path: write_parquet(path, cells=False),
    "a.arrow": write_arrow,
}


def located(path: Path, columns: Columns) -> list[tuple[Position | None, ReadResult]]:
    return list(readers.located(str(path), columns))


def plain(result: ReadResult) -> object:
    return (result.where, result.reason) if isinstance(result, BadRecord) else result


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("need_text", [False, True])
def test_a_row_read_at_its_position_is_the_same(tmp_path: Path, name: str, need_text: bool) -> None:
    path, columns = FORMATS[name](tmp_path / name), Columns(need_text=need_text)
    results = located(path, columns)
    assert [plain(result) for _, result in results] == [plain(result) for result in readers.read(str(path), columns)]
    for position, result in reversed(results):
        if position is None:
            assert isinstance(result, BadRecord)
        else:
            assert plain(readers.read_at(path, position, columns)) == plain(result)
    assert sum(position is not None for position, _ in results) >= 4


def test_positions_hold_across_parts_of_a_long_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_reader, "_JSON_CHARACTERS", 37)
    path = write_list(tmp_path / "a.json")
    for position, result in located(path, Columns()):
        assert position is not None and plain(readers.read_at(path, position, Columns())) == plain(result)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "folder"])
def test_other_files_have_no_positions(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_text("image,caption\n1.jpg,x\n")
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]), "utf-16")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/1.png").write_bytes(png())
    assert [position for position, _ in located(tmp_path / name, Columns())] == [None]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.tar"])
def test_a_file_that_has_changed_is_named(tmp_path: Path, name: str) -> None:
    path = FORMATS[name](tmp_path / name)
    positions = [position for position, _ in located(path, Columns()) if position is not None]
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UsageError, match=f"{name}: has changed while it was in use"):
        readers.read_at(path, positions[-1], Columns())


def test_a_large_member_of_a_sample_is_not_read_with_its_texts(tmp_path: Path) -> None:
    members = [("a.png", png()), ("a.npy", bytes(3 << 20)), ("a.txt", b"x"), *tar_sample("b", caption="y")]
    path = write_tar(tmp_path / "a.tar", members)
    results = located(path, Columns())
    assert [plain(readers.read_at(path, p, Columns())) for p, _ in results if p] == [plain(r) for _, r in results]
