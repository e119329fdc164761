"""Writes a trained model as the bundled `tiny`: int8 weights, one scale a row.

python experiments/tiny/ship.py runs/tiny/last/final src/blip/assets/tiny
"""

from __future__ import annotations

import sys
from pathlib import Path

from blip.checkpoint.files import write_folder
from blip.checkpoint.load import load
from blip.checkpoint.quantize import quantize


def main(source: Path, target: Path) -> None:
    loaded = load(str(source))
    write_folder(target, quantize(loaded.model.state_dict()), loaded.config, vocab=loaded.vocab)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
