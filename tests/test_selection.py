"""The tests that `make test-fast` leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import INTEGRATION

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("prefix", INTEGRATION)
def test_every_entry_names_tests(prefix: str) -> None:
    path, _, name = prefix.partition("::")
    assert (ROOT / path).exists() or list((ROOT / path).parent.glob(f"{Path(path).name}*.py"))
    assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
