"""Where the files that come with this package lie."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
