"""Tars that are cut or damaged anywhere are reported, and their good members are read."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from blip.io.tar_files import tar_members
from blip_lite.errors import UsageError
from tests.data.test_sources import write_tar

BLOCK = tarfile.BLOCKSIZE
NAMES = ["0.txt", "1.txt", "2.txt"]
ENDS = [2 * BLOCK, 5 * BLOCK, 7 * BLOCK]  # of the members with their headers


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "a.tar", [(name, b"x" * size) for name, size in zip(NAMES, (9, 600, 512), strict=True)])


def read(shard: Path) -> tuple[list[str], str]:
    """Return the names of the members, and the reason why reading ended early."""
    names: list[str] = []
    try:
        for member in tar_members(shard):
            names.append(member.name)
    except UsageError as error:
        return names, str(error)
    return names, ""


def test_a_tar_that_is_cut_anywhere_is_reported(shard: Path) -> None:
    data = shard.read_bytes()
    assert read(shard) == (NAMES, "")
    for size in sorted({*range(0, ENDS[-1] + BLOCK, BLOCK // 2), *(end + 1 for end in ENDS)}):
        shard.write_bytes(data[:size])
        names, reason = read(shard)
        complete = [name for name, end in zip(NAMES, ENDS, strict=True) if end <= size]
        assert names in (complete, NAMES[: len(complete) + 1]), size  # the last one may be cut
        assert reason.startswith(f"{shard}: not a readable tar file (") and len(reason.splitlines()) == 1, size
    shard.write_bytes(data[: ENDS[-1] + BLOCK])
    assert read(shard) == (NAMES, "")  # a single block of zeros, as some writers end


def test_a_tar_that_is_cut_between_members_is_truncated(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: ENDS[1]])
    assert read(shard) == (
        NAMES[:2],
        f"{shard}: not a readable tar file (truncated at byte 2,560: no zero block marks its end)",
    )


@pytest.mark.parametrize(
    ("first", "last", "byte", "names", "reason"),
    [
        (ENDS[0], ENDS[1], 0xFF, NAMES[:1], "damaged or truncated at byte 1,024"),
        (ENDS[0], ENDS[1], 0, NAMES[:1], "data after its end at byte 1,024: damaged or several archives in one"),
        (ENDS[1] + 1, ENDS[1] + 2, 0xFF, NAMES[:2], "damaged or truncated at byte 2,560"),
    ],
    ids=["overwritten", "zeros", "one byte of a header"],
)
def test_damaged_members_are_reported(
    shard: Path, first: int, last: int, byte: int, names: list[str], reason: str
) -> None:
    data = bytearray(shard.read_bytes())
    data[first:last] = bytes([byte]) * (last - first)
    shard.write_bytes(data)
    assert read(shard) == (names, f"{shard}: not a readable tar file ({reason})")


def test_members_of_a_second_archive_in_the_file_are_reported(shard: Path) -> None:
    data = shard.read_bytes()
    shard.write_bytes(data + data)
    names, reason = read(shard)
    assert names == NAMES and "data after its end at byte 3,584" in reason
