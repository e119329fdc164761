"""`blip capfilt select`: what it prints, its exit codes, and that training reads what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip.cli import main
from blip_lite.text_files import load_json
from tests.capfilt.score_rows import tar_rows, write_scores
from tests.data.test_sources import png, write_tar


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shard = write_tar(tmp_path / "cc.tar", [(f"{i}.png", png(i)) for i in range(4)])
    rows = tar_rows(shard, [("web", f"text {i}", i / 4) for i in range(4)])
    bad = {"key": "cc.tar/9", "shard": str(shard), "error": "truncated image"}
    return write_scores(tmp_path / "out", [*rows, bad])


def test_the_shares_are_printed_and_the_reasons_noted(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capfilt", "select", "out", "--threshold", "0.3"]) == 0
    out, err = capsys.readouterr()
    assert out == "image\t2\t5\t40.0%\nweb\t2\t4\t50.0%\n"
    assert err == "dropped by threshold: 2 web\nnot scored: 1 image: truncated image\n"
    assert load_json(scores / "selection.json")["command"] == "blip capfilt select out -o out --threshold 0.3"
    assert main(["capfilt", "select", "out", "-o", "other", "--threshold", "0.5"]) == 0
    capsys.readouterr()
    assert load_json(Path("other/selection.json"))["command"] == "blip capfilt select out -o other"
    assert main(["capfilt", "select", "out", "--threshold", "0.8"]) == 2
    assert "out/selected-00000.tar exists; choose another folder (-o) or give --overwrite" in capsys.readouterr().err
    assert main(["capfilt", "select", "out", "--threshold", "50%", "-q", "--overwrite"]) == 0
    assert capsys.readouterr().err == ""


def test_an_image_that_cannot_be_read_is_noted_and_the_exit_code_is_1(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((scores.parent / "cc.tar").read_bytes())
    at = data.index(png(2))
    data[at + 20] ^= 255
    (scores.parent / "cc.tar").write_bytes(data)
    assert main(["capfilt", "select", "out"]) == 1
    err = capsys.readouterr().err
    assert f"cc.tar/2: {scores.parent}/cc.tar/2.png: has changed since it was scored\n" in err
    assert err.endswith("1 selected image could not be read and left out\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", "2"], "threshold 2; must be a number from 0 to 1, or a share such as 30%"),
        (["--where", "itc >"], "where 'itc >': syntax error"),
        (["--drop-duplicates", "url,look"], "drop_duplicates look; must be one of url, bytes, near"),
        (["--keep", "some"], "--keep some; must be all, best or best-per-kind"),
        (["--limit", "0"], "--limit 0; must be an integer of at least 1"),
        (["-o", "x.tar"], "-o x.tar; must be a folder"),
    ],
)
def test_bad_flags_are_one_line(
    scores: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["capfilt", "select", "out", *flags]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert sorted(path.name for path in scores.iterdir()) == ["scores"]


@pytest.mark.slow
def test_pretraining_runs_on_the_shards(scores: Path) -> None:
    assert main(["capfilt", "select", "out", "--threshold", "0.2"]) == 0
    command = ["train", "pretrain", "--data", "out/*.tar", "-o", "run", "--steps", "1", "--batch-size", "3"]
    assert main([*command, "--init", "tiny", "--val", "none"]) == 0
