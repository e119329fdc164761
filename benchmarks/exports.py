"""A model over torch, its graphs over onnxruntime, and its graphs with 8-bit products: the same captions, at what cost?

    OMP_NUM_THREADS=1 python -m benchmarks.exports --data dev.tar            # photos with texts, model tiny
    python -m benchmarks.exports --data photos/ -m caption-base --limit 100

Beam search of 3, batches of 8, decoding of the files included. Seconds are the processor's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

import blip
import blip_lite
from blip.apps.export.write import Form, export
from blip.data.sources import open_source
from blip.data.task_rows import merged_by_image
from blip.metrics.caption import score_captions
from blip_lite.face import Face


def captions(model: Face, images: list[bytes]) -> tuple[list[str], float]:
    """The captions, and processor seconds a photo."""
    model.caption(images[:1])
    start = time.process_time()
    found = [caption.text for caption in model.caption(images)]
    return found, (time.process_time() - start) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="photos with texts: a folder, tars, a table")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--limit", type=int, help="photos")
    options = parser.parse_args()
    source = merged_by_image(open_source(options.data, require_text=True))
    records = [source[i] for i in range(len(source))][: options.limit]
    images, references = [record.image.read_bytes() for record in records], [record.texts for record in records]
    threads = torch.get_num_threads()
    wanted, seconds = captions(blip.load(options.model), images)
    print(f"{len(images)} photos, {threads} threads\n{'':<10}{'equal to torch':>16}{'CIDEr':>10}{'ms a photo':>12}")
    print(f"{'torch':<10}{'':>16}{score_captions(references, wanted)['cider']:>10.4f}{1000 * seconds:>12.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for name, form in (("graphs", Form()), ("8 bits", Form(int8=True))):
            export(options.model, Path(folder, name), form)
            found, seconds = captions(blip_lite.load(Path(folder, name), threads=threads), images)
            equal = sum(a == b for a, b in zip(wanted, found, strict=True))
            print(f"{name:<10}{equal:>16}{score_captions(references, found)['cider']:>10.4f}{1000 * seconds:>12.1f}")


if __name__ == "__main__":
    main()
