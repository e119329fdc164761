"""Images, one of them broken, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip.cli import main


@dataclass
class Result:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


Blip = Callable[..., Result]


@pytest.fixture
def blip(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Blip:
    """`blip(*args)`: run the command in this process, without settings from the environment."""
    for name in ("BLIP_MODEL", "BLIP_OFFLINE", "BLIP_DEVICE"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: str | Path) -> Result:
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images of noise, of which `c.jpg` is truncated."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.RandomState(0)
    for name in ("a.png", "b.jpg", "c.jpg", "sub/d.png", "sub/e ü.png"):
        Image.fromarray(rng.randint(0, 256, (48, 40, 3), dtype=np.uint8)).save(folder / name)
    (folder / "c.jpg").write_bytes((folder / "b.jpg").read_bytes()[:700])
    return folder
