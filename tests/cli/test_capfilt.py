"""`blip capfilt` on the command line: the whole method, failures, refusals, status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Blip
from tests.data.test_sources import png, tar_sample, write_tar

pytest.importorskip("pyarrow")
pytest.importorskip("duckdb")
MODELS = ("--captioner", "random-tiny", "--filter", "random-tiny", "--device", "cpu")


@pytest.fixture
def data(tmp_path: Path) -> list[Path]:
    """Two tars of four images, one of them broken."""
    broken = [("broken.png", png()[:30]), ("broken.txt", b"x")]
    return [
        write_tar(tmp_path / f"{name}.tar", [*(m for i in range(3) for m in tar_sample(f"{i}", i, caption="a")), *more])
        for name, more in (("a", tar_sample("3", 3, caption="b")), ("b", broken))
    ]


def test_scores_with_failures_are_counted_and_shown_again(blip: Blip, data: list[Path], tmp_path: Path) -> None:
    first = blip("capfilt", "run", *data, "-o", tmp_path / "out", *MODELS)
    assert first.code == 1 and first.out == ""
    assert "2 shards done (2 by this run), 8 images, 7 web and 7 synthetic texts, kept at 0.5: " in first.err
    assert first.err.endswith("1 failed\n1 failed: truncated image (read N of N bytes)\n")
    again = blip("capfilt", "run", *data, "-o", tmp_path / "out", *MODELS)
    assert again.code == 1 and again.err == first.err.replace("2 by this run", "0 by this run")
    status = blip("capfilt", "status", tmp_path / "out")
    rows = dict(line.split("\t") for line in status.out.splitlines())
    assert status.code == 0 and (rows["shards done"], rows["shards missing"], rows["images"]) == ("2", "0", "8")
    assert rows["failed: truncated image (read N of N bytes)"] == "1"


def test_missing_shards_are_named_by_status(blip: Blip, data: list[Path], tmp_path: Path) -> None:
    blip("capfilt", "run", *data, "-o", tmp_path / "out", *MODELS)
    (tmp_path / "out/scores/b.parquet").unlink()
    result = blip("capfilt", "status", tmp_path / "out")
    assert result.code == 1 and result.err.startswith(f"missing: {data[1]}; ") and "shards missing\t1" in result.out
    assert blip("capfilt", "status", tmp_path).err.endswith("no score files; 'blip capfilt run' writes them\n")


def test_the_bare_form_runs_reports_and_selects(blip: Blip, data: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = blip("capfilt", data[0], "-o", out, *MODELS, "--captions", "2")
    names = {path.name for path in out.iterdir()}
    assert names >= {"settings.json", "units.jsonl", "scores", "report.html"}, result.err
    settings = json.loads((out / "settings.json").read_text())
    assert settings["captions"] == 2 and settings["decoding"]["method"] == "nucleus" and settings["seed"] == 0


def test_the_bare_form_replaces_a_selection_only_on_request_and_keeps_the_scores(
    blip: Blip, data: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert blip("capfilt", "run", data[0], "-o", out, *MODELS).code == 0
    scores = (out / "scores/a.parquet").stat()
    (out / "selected.jsonl").write_text("mine")
    result = blip("capfilt", data[0], "-o", out, *MODELS)
    assert result.code == 2
    assert result.err == f"blip: error: {out}/selected.jsonl exists; choose another folder (-o) or give --overwrite\n"
    assert (out / "selected.jsonl").read_text() == "mine" and not (out / "report.html").exists()
    blip("capfilt", data[0], "-o", out, *MODELS, "--overwrite")
    assert (out / "report.html").exists() and (out / "scores/a.parquet").stat().st_mtime_ns == scores.st_mtime_ns


def test_help_shows_both_forms(blip: Blip) -> None:
    lines = blip("capfilt", "--help").out.splitlines()
    assert lines[0].strip() == "Usage: blip capfilt [OPTIONS] -o DIR DATA..."
    assert lines[1].strip() == "blip capfilt COMMAND [OPTIONS]..."


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--seed", "1"), "made with seed 0, not 1; choose another output"),
        (("--beams", "3"), 'made with decoding.method "nucleus", not "beam"'),
        (("--filter", "tiny"), "made with filter 'random-tiny' ("),
        (("--captions", "0"), "made with captioner 'random-tiny' ("),
        (("--human-column", "h"), 'made with human_column null, not "h"'),
        (("--copy-column", "itm"), "copied column 'itm'; score files have a column of this name"),
        (("--max-megapixels", "0"), "--max-megapixels 0; must be more than 0"),
    ],
)
def test_other_settings_are_refused_in_one_line(
    blip: Blip, data: list[Path], tmp_path: Path, flags: tuple[str, ...], problem: str
) -> None:
    blip("capfilt", "run", data[0], "-o", tmp_path / "out", *MODELS)
    result = blip("capfilt", "run", data[0], "-o", tmp_path / "out", *MODELS, *flags)
    assert result.code == 2 and problem in result.err and result.err.count("\n") == 1
    assert result.err.startswith("blip: error: ")


def test_data_that_change_or_do_not_exist_are_refused(blip: Blip, data: list[Path], tmp_path: Path) -> None:
    blip("capfilt", "run", *data, "-o", tmp_path / "out", *MODELS)
    write_tar(data[0], [m for i in range(30) for m in tar_sample(f"{i}", i, caption="a")])
    changed = blip("capfilt", "run", *data, "-o", tmp_path / "out", *MODELS)
    assert changed.code == 2 and f"{data[0]}: " in changed.err and "scores/a.parquet was written" in changed.err
    missing = blip("capfilt", "run", tmp_path / "none.tar", "-o", tmp_path / "other", *MODELS)
    assert missing.code == 2 and "none.tar: no such file" in missing.err and not (tmp_path / "other").exists()


def test_a_column_of_human_pairs_that_is_never_true_is_noted(blip: Blip, data: list[Path], tmp_path: Path) -> None:
    flags = ("-o", tmp_path / "out", *MODELS, "--human-column", "human")
    assert "column 'human' is true in no row, so all texts were scored" in blip("capfilt", "run", data[0], *flags).err
