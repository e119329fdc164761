"""Byte order marks, and JSON that is nested too deeply."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip_lite import text_files

TEXT = "a cat\nein Hündchen"
DEEP = "[" * 200_000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_does_not_reach_the_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode(encoding))
    assert text_files.read_text(path) == TEXT
    assert text_files.decode_text(TEXT.encode(encoding)) == TEXT
    with text_files.open_text(path, newline="") as file:
        assert file.read() == TEXT.replace("\n", "\r\n")
    path.write_bytes('{"a": 1}'.encode(encoding))
    assert text_files.load_json(path) == text_files.parse_json(path.read_bytes()) == {"a": 1}


@pytest.mark.parametrize("text", [DEEP, DEEP.encode(), '{"a":' * 200_000])
def test_deeply_nested_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        text_files.parse_json(text)


def test_text_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UnicodeDecodeError):
        text_files.read_text(tmp_path / "a.txt")
