"""Quotes of the bundled models in cards, licences, README and pages are up to date; `make renew` writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from blip.io.fetch import sha256_of
from experiments.quotes import photos
from experiments.quotes.files import FOLDERS, ROOT, TINY, VALUES, names, quoting, renewed
from experiments.quotes.marks import renew_text, table
from experiments.quotes.results import load


def test_marked_parts_are_renewed_in_place() -> None:
    values = {"n": lambda: "2", "t": lambda: table(("a", "b"), ("1", "2"))}
    text = "is <!-- quote n -->1<!-- /quote -->.\n<!-- quote t -->\nold\n<!-- /quote -->\n"
    rows = "| a | b |\n| --- | --- |\n| 1 | 2 |"
    expected = f"is <!-- quote n -->2<!-- /quote -->.\n<!-- quote t -->\n\n{rows}\n\n<!-- /quote -->\n"
    assert renew_text(text, values) == expected == renew_text(expected, values)
    with pytest.raises(KeyError, match="unknown"):
        renew_text("<!-- quote unknown -->1<!-- /quote -->", values)


@pytest.mark.parametrize("path", quoting(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_quotes_of_a_file_are_up_to_date(path: Path, renew: bool) -> None:
    if renew:
        path.write_text(renewed(path), encoding="utf-8")
    assert renewed(path) == path.read_text(encoding="utf-8"), "run 'make renew'"


def test_every_value_is_quoted_somewhere() -> None:
    assert set(names()) == set(VALUES)


def test_the_card_reports_results_of_the_bundled_weights() -> None:
    digest = sha256_of(TINY / "model.safetensors")
    assert load("experiments/tiny/results.json")["weights"] == digest, "run 'python -m experiments.tiny.measure'"


def test_the_photos_have_credits_and_are_small() -> None:
    credits = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    listed = {path for path in photos.photos()}
    assert listed == {p.relative_to(ROOT).as_posix() for p in (ROOT / "examples").rglob("*.[jp]*g")}
    for path in listed:
        line = next(line for line in credits.splitlines() if f"`{path.removeprefix('examples/')}`" in line)
        assert "CC0" in line or "public domain" in line
        assert "everyday" not in path or (ROOT / path).stat().st_size <= 60_000


def test_the_subject_is_named_by_whole_words() -> None:
    assert photos.names_subject("a black cat sits", ["cat"]) and not photos.names_subject("cattle", ["cat"])


@pytest.mark.parametrize("model", FOLDERS)
def test_the_card_states_the_terms_of_all_data(model: str) -> None:
    card = (FOLDERS[model] / "README.md").read_text(encoding="utf-8")
    for item in (FOLDERS[model] / "LICENSE").read_text(encoding="utf-8").splitlines():
        assert not item.startswith("- ") or item in card, "mark the terms in the card: <!-- quote MODEL-terms -->"
