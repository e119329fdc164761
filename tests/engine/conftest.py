"""Work without models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.toy import Toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    (tmp_path / "processes").mkdir()
    return Toy(tmp_path / "processes")
