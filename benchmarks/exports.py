"""Captions and their cost: a model with torch, its graphs with onnxruntime, and its graphs with 8-bit products.

    OMP_NUM_THREADS=1 python -m benchmarks.exports --data dev.tar            # photos with texts, model tiny
    python -m benchmarks.exports --data photos/ -m caption-base --limit 100

Beam search with 3 beams, batches of 8, including the decoding of files. Times are processor time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

import blip
import blip_lite
from blip.apps.export.folder import ExportOptions, export
from blip.data.sources import open_source
from blip.data.task_rows import merged_by_image
from blip.metrics.caption import score_captions
from blip_lite.model import Model


def captions(model: Model, images: list[bytes]) -> tuple[list[str], float]:
    """Return the captions, and processor seconds per photo."""
    model.caption(images[:1])
    start = time.process_time()
    texts = [caption.text for caption in model.caption(images)]
    return texts, (time.process_time() - start) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="photos with texts: a folder, tar files, a table")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--limit", type=int, help="maximum number of photos")
    options = parser.parse_args()
    source = merged_by_image(open_source(options.data, require_text=True))
    records = [source[i] for i in range(len(source))][: options.limit]
    images, references = [record.image.read_bytes() for record in records], [record.texts for record in records]
    threads = torch.get_num_threads()
    expected, seconds = captions(blip.load(options.model), images)
    print(f"{len(images)} photos, {threads} threads\n{'':<10}{'equal to torch':>16}{'CIDEr':>10}{'ms per photo':>14}")
    print(f"{'torch':<10}{'':>16}{score_captions(references, expected)['cider']:>10.4f}{1000 * seconds:>14.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for name, export_options in (("graphs", ExportOptions()), ("8 bits", ExportOptions(int8=True))):
            export(options.model, Path(folder, name), export_options)
            texts, seconds = captions(blip_lite.load(Path(folder, name), threads=threads), images)
            equal = sum(a == b for a, b in zip(expected, texts, strict=True))
            print(f"{name:<10}{equal:>16}{score_captions(references, texts)['cider']:>10.4f}{1000 * seconds:>14.1f}")


if __name__ == "__main__":
    main()
