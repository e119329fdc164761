"""The gate of `make bench-check`, with made-up times: what passes, what fails, the messages."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

from benchmarks import check, report, side_by_side
from benchmarks.machine import processor


def row(ours: str, ratio: float) -> dict[str, Any]:
    return {"ours": ours, "peer": "f32", "ratio": ratio}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """Rows that the next runs of a case return; committed are 2.0 (f32) and 4.0 (bf16)."""
    rows: list[list[dict[str, Any]]] = []
    committed = {"itm": {"rows": [row("f32", 2.0), row("bf16", 4.0)]}}
    values = {"machine": {"processor": f"{processor()}, 1 threads"}, "cases": committed}
    monkeypatch.setattr(report, "read", lambda: values)
    monkeypatch.setattr(side_by_side, "run", lambda name, rounds: {"rows": rows.pop(0)})
    return rows


def test_equal_and_faster_rows_pass(runs: list[list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]) -> None:
    runs.append([row("f32", 1.81), row("bf16", 5.0), row("int8", 8.0)])
    assert check.check(["itm"], None) == 0
    assert "itm, bf16 against f32: 125% of the committed ratio" in capsys.readouterr().out


def test_a_slower_row_fails_and_is_named(runs: list[list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]) -> None:
    runs += [[row("f32", 1.7), row("bf16", 4.0)], [row("f32", 1.75), row("bf16", 4.0)]]
    assert check.check(["itm"], None) == 1
    assert capsys.readouterr().out.endswith("1 rows below 90% of the committed ratio\n  itm, f32 against f32: 88%\n")


def test_a_disturbed_round_is_repeated(runs: list[list[dict[str, Any]]]) -> None:
    runs += [[row("f32", 1.0), row("bf16", 4.0)], [row("f32", 2.0), row("bf16", 3.0)]]
    assert check.check(["itm"], None) == 0
    assert not runs


def test_a_case_without_results_is_refused(
    runs: list[list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.check(["vqa"], None) == 2
    assert "has no case 'vqa'" in capsys.readouterr().out


def test_results_of_another_processor_are_refused(
    runs: list[list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "processor", lambda: "Another (family 1, model 2)")
    assert check.check([], None) == 2
    assert "this is Another (family 1, model 2): run `make bench`" in capsys.readouterr().out
