"""`blip capfilt report`: figures on standard output, and a page that replaces nothing but an earlier report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.capfilt.test_report import FILES, page_of, scored
from tests.cli.conftest import Blip


def test_command_line(tmp_path: Path, blip: Blip) -> None:
    folder = scored(tmp_path, *FILES)
    result = blip("capfilt", "report", folder, "--threshold-web", "0.3", "--threshold-synthetic", "50%")
    assert (result.code, result.err) == (0, f"report: {folder / 'report.html'}\n")
    assert result.out == "human\t1\t1\t100.0%\nweb\t2\t3\t66.7%\nsynthetic\t2\t4\t50.0%\n"
    assert "at least 0.3 (web) and 0.7 (synthetic, the best 50 %)" in page_of(folder).text
    assert blip("capfilt", "report", folder, "-q").code == 0  # replaces its own page
    other = tmp_path / "other.html"
    other.write_text("mine")
    result = blip("capfilt", "report", folder, "-o", other)
    assert (result.code, result.err) == (2, f"blip: error: {other} exists; choose another name or use --overwrite\n")
    assert other.read_text() == "mine"
    assert blip("capfilt", "report", folder, "-o", other, "--overwrite", "-q").code == 0
    assert other.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "page.txt"], "-o page.txt: unknown ending '.txt'; must be .html"),
        (["--threshold", "2"], "threshold 2; must be a number from 0 to 1"),
        (["--truth-column", "label"], "truth column 'label': not in the score files"),
    ],
)
def test_usage_errors_leave_no_page(tmp_path: Path, blip: Blip, arguments: list[str], message: str) -> None:
    folder = scored(tmp_path, *FILES)
    result = blip("capfilt", "report", folder, *arguments)
    assert result.code == 2 and message in result.err
    assert sorted(path.name for path in folder.iterdir()) == ["scores", "settings.json"]


def test_a_folder_without_scores_or_settings_is_refused(tmp_path: Path, blip: Blip) -> None:
    result = blip("capfilt", "report", tmp_path)
    assert result.code == 2 and "no score files in scores/; 'blip capfilt run' writes them" in result.err
    folder = scored(tmp_path, *FILES)
    (folder / "settings.json").write_text("[]")
    assert "must be a JSON object, not list" in blip("capfilt", "report", folder).err
    (folder / "settings.json").unlink()
    message = "settings.json: No such file or directory; must be a folder that a run has written"
    assert message in blip("capfilt", "report", folder).err
