"""The tests that `make test-fast` leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import INTEGRATION

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("prefix", INTEGRATION)
def test_every_entry_names_a_file_or_folder(prefix: str) -> None:
    assert list(ROOT.glob(f"{prefix.rstrip('/')}*"))
