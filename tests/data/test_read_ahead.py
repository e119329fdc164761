"""Reading ahead: whole shards in the order of their use, in the background, if the memory is large enough."""

from __future__ import annotations

import logging
from pathlib import Path
from queue import SimpleQueue

import pytest

from blip.data import read_ahead as module
from blip.data.indexed_source import ByteRange
from blip.data.read_ahead import free_memory, read_ahead
from tests.data.test_indexed_source import opened, write_shards
from tests.io.test_positions import write_jsonl

CHUNK = 1500  # bytes; shards here are larger
ROW = 4 * 512  # bytes of a row: an image and a text, each with its header
Read = tuple[str, int, int]  # name of a file, first byte, number of bytes


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[Read]:
    """The reads of all files, as they happen; a missing file fails as usual."""
    done: SimpleQueue[Read] = SimpleQueue()

    def record(path: Path, offset: int, size: int) -> bytes:
        path.stat()
        done.put((path.name, offset, size))
        return b""

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(module, "_CHUNK", CHUNK)
    monkeypatch.setattr(module, "read_at", record)
    return done


def chunks(part: ByteRange) -> list[Read]:
    """The reads of a range."""
    return [(part.file.name, at, min(CHUNK, part.end - at)) for at in range(part.start, part.end, CHUNK)]


def test_shards_are_read_whole_and_in_the_order_of_the_calls(tmp_path: Path, reads: SimpleQueue[Read]) -> None:
    source = opened(write_shards(tmp_path))
    ahead = read_ahead(source, window=2)
    assert ahead is not None
    for first in (8, 0, 4):
        ahead(first, 4)
    parts = [source.byte_range(first, 4) for first in (8, 0, 4)]
    expected = [read for part in parts if part is not None for read in chunks(part)]
    assert [reads.get(timeout=60) for _ in expected] == expected and reads.empty()
    assert [name for name, *_ in expected] == ["2.tar"] * 6 + ["0.tar"] * 6 + ["1.tar"] * 6
    assert [sum(size for name, _, size in expected if name == f"{n}.tar") for n in range(3)] == [4 * ROW] * 3


def test_only_the_requested_rows_are_read(tmp_path: Path, reads: SimpleQueue[Read]) -> None:
    ahead = read_ahead(opened(write_shards(tmp_path)), window=1)
    assert ahead is not None
    ahead(5, 2)
    assert [reads.get(timeout=60) for _ in range(3)] == [
        ("1.tar", ROW, CHUNK),
        ("1.tar", ROW + CHUNK, CHUNK),
        ("1.tar", ROW + 2 * CHUNK, 2 * ROW - 2 * CHUNK),
    ]


def test_a_shard_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path, reads: SimpleQueue[Read]) -> None:
    source = opened(write_shards(tmp_path))
    ahead = read_ahead(source, window=1)
    assert ahead is not None
    assert source.byte_range(0, 4) is not None and source.byte_range(4, 4) is not None
    (tmp_path / "0.tar").unlink()
    ahead(0, 4)
    ahead(4, 4)
    assert reads.get(timeout=60)[0] == "1.tar"


def test_rows_of_tables_are_not_read_ahead(tmp_path: Path, reads: SimpleQueue[Read]) -> None:
    table = write_jsonl(tmp_path / "t.jsonl")
    assert read_ahead(opened(table), window=1) is None
    source = opened([str(table), *write_shards(tmp_path, shards=1)])
    ahead = read_ahead(source, window=1)
    assert ahead is not None
    rows = len(source) - 4
    ahead(0, rows)
    ahead(rows, 4)
    assert reads.get(timeout=60)[0] == "0.tar"


@pytest.mark.parametrize(("rank", "reading"), [("0", True), ("1", False)])
def test_one_process_of_a_machine_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, reading: bool
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert (read_ahead(opened(write_shards(tmp_path)), window=1) is not None) == reading


def test_windows_that_do_not_fit_into_half_of_the_memory_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    source = opened(write_shards(tmp_path))
    size = (tmp_path / "0.tar").stat().st_size
    caplog.set_level(logging.WARNING)
    caplog.clear()  # of lines on building indexes
    monkeypatch.setattr(module, "free_memory", lambda: 2 * 2 * 3 * size)  # twice the two windows of three tars
    assert read_ahead(source, window=3) is not None and not caplog.records
    monkeypatch.setattr(module, "free_memory", lambda: 2 * 2 * 3 * size - 2)
    assert read_ahead(source, window=3) is None
    assert "2 windows of 3 shards need 0.0 GB, more than half of the 0.0 GB of free memory" in caplog.text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2 kB\n"}, 2048),
        ({"/proc/meminfo": "MemAvailable: 2 kB\n", "/sys/fs/cgroup/memory.max": "1000\n"}, 1000),
        ({"/proc/meminfo": "MemAvailable: 2 kB\n", "/sys/fs/cgroup/memory.max": "max\n"}, 2048),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "3000\n"}, 3000),
        ({}, 4096 * 100),
    ],
    ids=["machine", "container", "container without limit", "older container", "neither"],
)
def test_free_memory_is_the_least_of_machine_and_container(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    def read_text(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(module.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 100}.__getitem__, raising=False)
    monkeypatch.setattr(module.Path, "read_text", read_text)
    assert free_memory() == expected
