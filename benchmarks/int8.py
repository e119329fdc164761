"""Cost of 8 bits: results with `--dtype int8` and `bf16` against those in float32, on a CPU.

    python -m benchmarks.int8                                 # ViT-B at full size, random weights, example photos
    python -m benchmarks.int8 --data dev.tar -m tiny          # captions and scores of a model, photos with texts

The first prints errors of image states, of the scores of tokens after given ones, and of matching. The second prints
equal captions (beam search with 3 beams, batches of 8), CIDEr, and scores of each photo with its first text.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor

import blip
from benchmarks.exports import captions
from benchmarks.peers import pair
from blip import inference
from blip.data.sources import open_source
from blip.data.task_rows import merged_by_image
from blip.metrics.caption import score_captions
from blip.model.blip import BlipModel
from blip.model.int8_linear import pack_int8
from blip.model.mkldnn_linear import pack
from blip.tokenizer import Encoded

TEXTS = ["a cat", "a man in a suit takes a photo", "a cup of coffee on a wooden table", "two dogs run in the street"]


def random_weights() -> None:
    """Print the errors of a model for captions and of one for matching, both with random weights."""
    print(f"{'':<8}{'states':>10}{'logits, rms':>14}{'of std':>10}{'same first':>12}{'ITM logits':>12}{'of std':>10}")
    captioner, matcher = pair("caption", 384), pair("retrieval", 384)
    pixels, ids = captioner.photos(4), torch.randint(1000, 30000, (4, 20), generator=torch.Generator().manual_seed(0))
    encoded = matcher.tokenizer.encode(TEXTS, first="enc", max_length=35)
    states, logits, scores = _outputs(captioner.plain, matcher.plain, pixels, ids, encoded)
    for name in ("bf16", "int8"):
        models = [copy.deepcopy(p.plain).bfloat16() for p in (captioner, matcher)]
        for model in models:
            (pack_int8 if name == "int8" else pack)(model)
        states2, logits2, scores2 = _outputs(models[0], models[1], pixels.bfloat16(), ids, encoded)
        same = (logits2.argmax(-1) == logits.argmax(-1)).float().mean()
        error, largest = _rms(logits2 - logits), (scores2 - scores).abs().max()
        spread = logits.std(-1).mean()
        print(
            f"{name:<8}{_rms(states2 - states) / _rms(states):>10.2%}{error:>14.4f}{error / spread:>10.2%}"
            f"{same:>12.1%}{largest:>12.4f}{largest / scores.std():>10.2%}"
        )


@torch.inference_mode()
def _outputs(captioner: BlipModel, matcher: BlipModel, pixels: Tensor, ids: Tensor, texts: Encoded) -> list[Tensor]:
    """Image states, scores of the tokens after given ones, logits of each photo with each text."""
    states = captioner.encode_image(pixels)
    logits = captioner.decode(ids, torch.ones_like(ids), states)
    scores = [inference.match_logits(matcher, image, texts) for image in matcher.encode_image(pixels).split(1)]
    return [states.float(), logits.float(), torch.stack(scores).float()]


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def model_on_data(name: str, data: list[str], limit: int | None) -> None:
    """Print how a model's captions and scores differ from those in float32."""
    source = merged_by_image(open_source(data, require_text=True))
    records = [source[i] for i in range(len(source))][:limit]
    images, references = [record.image.read_bytes() for record in records], [record.texts for record in records]
    firsts = [texts[0] for texts in references]
    print(f"{len(images)} photos\n{'':<8}{'equal':>8}{'CIDEr':>10}{'ms per photo':>14}", end="")
    print(f"{'ITM, mean':>12}{'largest':>10}{'ITC, mean':>12}{'largest':>10}")
    exact = None
    for dtype in ("fp32", "bf16", "int8"):
        model = blip.load(name, device="cpu", dtype=dtype)
        texts, seconds = captions(model, images)
        scores = model.match(images, firsts, pairs=True)
        exact = exact or (texts, scores)
        equal = sum(a == b for a, b in zip(texts, exact[0], strict=True)) / len(texts)
        print(
            f"{dtype:<8}{equal:>8.1%}{score_captions(references, texts)['cider']:>10.4f}{1000 * seconds:>14.1f}", end=""
        )
        itm, itc = abs(scores.itm - exact[1].itm), abs(scores.itc - exact[1].itc)
        print(f"{itm.mean():>12.4f}{itm.max():>10.4f}{itc.mean():>12.4f}{itc.max():>10.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", help="photos with texts: a folder, tar files, a table")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--limit", type=int, help="maximum number of photos")
    options = parser.parse_args()
    if options.data:
        model_on_data(options.model, options.data, options.limit)
    else:
        random_weights()


if __name__ == "__main__":
    main()
