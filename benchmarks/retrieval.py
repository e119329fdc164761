"""Ranking of photos and texts, compared with a plain implementation of the original's way (blip-spec 5.3).

    python -m benchmarks.retrieval                                          # ViT-B, 16 photos x 160 texts, k = 16
    python -m benchmarks.retrieval --data dev.tar -m tiny -k 128 --rows 10  # real data; 2 x 10 rows of the plain way

The plain way: texts padded to 35, each direction separately, a photo's states repeated for each of its texts, one
matrix of scores per direction, weights not packed. Both use the same photos and weights; their scores are compared.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.cases import WORDS, Case, Work, _cross, _row, _vision
from benchmarks.machine import machine
from benchmarks.peers import pair
from benchmarks.timing import Call, limits, load
from blip import inference
from blip.checkpoint.load import load as load_model
from blip.data.sources import open_source
from blip.data.task_rows import merged_by_image, retrieval_texts
from blip.eval.pairs import Pairs, TokenStore, best_pairs, match_pairs, rank_by_score
from blip.eval.photos import Photos
from blip.eval.retrieval import KS
from blip.model.blip import BlipModel
from blip.model.mkldnn_linear import pack
from blip.model.text import TextTransformer
from blip.tokenizer import Encoded, Tokenizer

PHOTOS, TEXTS = 16, 256  # encoded together
UNSCORED = -100.0
Rows = dict[int, tuple[Tensor, Tensor]]  # query -> indices of the k best and their scores


@dataclass(frozen=True)
class Job:
    """Photos and texts to rank, and two models with the same weights: plain and packed."""

    plain: BlipModel
    ours: BlipModel
    tokenizer: Tokenizer
    read: Callable[[Sequence[int]], Tensor]  # indices -> pixel_values
    photos: int
    texts: Sequence[str]
    owners: Sequence[int]
    k: int


class Clock(dict[str, float]):
    """Processor seconds of the parts of a run; the time of nested parts is subtracted from the outer one."""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start, others = time.process_time(), sum(self.values())
        yield
        inner = sum(self.values()) - others
        self[name] = self.get(name, 0.0) + time.process_time() - start - inner


def choose(job: Job, clock: Clock) -> tuple[TokenStore, Encoded, Pairs]:
    """First half of our way: select the pairs to re-rank; states are kept."""

    def encode(numbers: Sequence[int]) -> Tensor:
        with clock.part("photos"):
            return job.ours.encode_image(job.read(numbers))

    store, features = TokenStore(encode), []
    for numbers in torch.split(torch.arange(job.photos), PHOTOS):
        embeds = encode(numbers.tolist())
        store.add(numbers.tolist(), embeds)
        features.append(job.ours.project_image(embeds))
    with clock.part("texts"):
        text_features = inference.embed_text(job.ours, job.tokenizer, job.texts)
        encoded = job.tokenizer.encode(job.texts, first="enc", max_length=35)
    with clock.part("choice"):
        return store, encoded, best_pairs(torch.cat(features), text_features, job.k)


def score(job: Job, store: TokenStore, encoded: Encoded, pairs: Pairs, clock: Clock) -> Tensor:
    """Second half of our way: scores [P] of the pairs."""
    make = TextTransformer.cross_keys_values

    def timed(*args: Any) -> Any:
        with clock.part("keys and values"):
            return make(*args)

    with clock.part("pairs"), patch.object(TextTransformer, "cross_keys_values", timed):
        return match_pairs(job.ours, encoded, pairs, store)[:, 1] + pairs.cosines


def plain_choose(job: Job, clock: Clock) -> tuple[Tensor, Encoded, Tensor]:
    """First half of the original's way (train_retrieval.py evaluation): states, padded texts, cosines [N, M]."""
    model, padded = job.plain, {"max_length": 35, "padding": "max_length"}
    with clock.part("texts"):
        encoded = job.tokenizer.encode(job.texts, **padded)  # type: ignore[arg-type]
        parts = zip(*(torch.split(x, TEXTS) for x in encoded), strict=True)
        text_features = torch.cat([model.project_text(model.encode_text(ids, mask)) for ids, mask in parts])
        encoded.input_ids[:, 0] = job.plain.config.text.enc_id
    with clock.part("photos"):
        numbers = torch.split(torch.arange(job.photos), PHOTOS)
        states = torch.cat([model.encode_image(job.read(chunk.tolist())) for chunk in numbers])
        return states, encoded, model.project_image(states) @ text_features.T


def plain_score(
    job: Job, states: Tensor, encoded: Encoded, cosines: Tensor, rows: int | None, clock: Clock
) -> tuple[Rows, Rows]:
    """Second half of the original's way; `rows` of each direction, evenly spread, None = all."""
    ids, mask = encoded
    to_texts, to_images = torch.full_like(cosines, UNSCORED), torch.full_like(cosines.T, UNSCORED)
    results: tuple[Rows, Rows] = ({}, {})

    def logits(images: Tensor, texts: Tensor) -> Tensor:
        return job.plain.match_logits(job.plain.fuse(ids[texts], mask[texts], images))[:, 1]

    for i in spread(job.photos, rows):
        with clock.part("rows of photos"):
            best, numbers = cosines[i].topk(min(job.k, len(job.texts)))
            to_texts[i, numbers] = logits(states[i].repeat(len(numbers), 1, 1), numbers) + best
        results[0][i] = numbers, to_texts[i, numbers]
    for i in spread(len(job.texts), rows):
        with clock.part("rows of texts"):
            best, numbers = cosines[:, i].topk(min(job.k, job.photos))
            to_images[i, numbers] = logits(states[numbers], torch.tensor([i]).repeat(len(numbers))) + best
        results[1][i] = numbers, to_images[i, numbers]
    clock.update({name: clock[name] * factor(count, rows) for name, count in _rows(job).items()})
    return results


def _rows(job: Job) -> dict[str, int]:
    return {"rows of photos": job.photos, "rows of texts": len(job.texts)}


def spread(count: int, rows: int | None) -> Sequence[int]:
    return range(count) if rows is None or rows >= count else [i * count // rows for i in range(rows)]


def factor(count: int, rows: int | None) -> float:
    return count / len(spread(count, rows))


def compare(pairs: Pairs, scores: Tensor, theirs: tuple[Rows, Rows]) -> str:
    """Assert equal scores of all common pairs; if cosines are nearly equal either may be the k-th."""
    common, count, largest = 0, 0, 0.0
    sides = (pairs.of_image, pairs.texts), (pairs.of_text, pairs.images)
    for rows, (places, others) in zip(theirs, sides, strict=True):
        for row, (numbers, expected) in rows.items():
            ours = dict(zip(others[places[row]].tolist(), scores[places[row]].tolist(), strict=True))
            both = [(ours[n], e) for n, e in zip(numbers.tolist(), expected.tolist(), strict=True) if n in ours]
            largest = max([largest, *(abs(a - b) / max(1.0, abs(b)) for a, b in both)])
            common, count = common + len(both), count + len(numbers)
    assert common >= 0.995 * count, f"{count - common} of {count} pairs differ"
    assert largest < 1e-5, f"scores differ by {largest}"
    return f"{common} of {count} scores within {largest:.0e}"


def highest(call: Call) -> tuple[Any, float]:
    """Result of a call and the peak growth of memory in bytes (Linux only, else NaN)."""
    try:
        with suppress(AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return call(), float("nan")
    before = _status("VmRSS")
    return call(), _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith(name))


def random_job(photos: int = 16, texts: int = 160, k: int = 16) -> Job:
    """ViT-B at 384 px with random weights, the example photos with some noise, texts of 8 to 19 tokens."""
    p, rng = pair("retrieval", 384), random.Random(0)
    pixels = p.photos(photos) + 0.1 * torch.randn(photos, 3, 384, 384, generator=torch.Generator().manual_seed(0))
    lengths = (6, 7, 8, 9, 10, 10, 11, 12, 13, 14, 17)
    words = [" ".join(rng.choices(WORDS, k=rng.choice(lengths))) for _ in range(texts)]
    owners = [i * photos // texts for i in range(texts)]
    return Job(p.plain, p.ours, p.tokenizer, lambda numbers: pixels[list(numbers)], photos, words, owners, k)


def data_job(name: str, data: Sequence[str], limit: int | None, k: int) -> Job:
    """A model by name on photos with texts, which are read when they are encoded."""
    loaded, source = load_model(name), merged_by_image(open_source(data, require_text=True))
    records = [source[i] for i in range(min(limit or len(source), len(source)))]
    texts, packed = retrieval_texts(records), copy.deepcopy(loaded.model)
    pack(packed)

    def read(numbers: Sequence[int]) -> Tensor:
        ((_, pixels),) = Photos(batch_size=len(numbers)).batches(records, loaded.model, numbers)
        return pixels

    return Job(loaded.model, packed, loaded.tokenizer, read, len(records), texts.texts, texts.text_to_image, k)


@torch.inference_mode()
def case() -> Case:
    """Case of re-ranking only; 8 of 176 rows of the plain way are timed."""
    job, rows = random_job(), 4
    choice, theirs = choose(job, Clock()), plain_choose(job, Clock())
    names = "ours f32", "plain f32, as the original ranks"
    calls: dict[str, Call] = {
        names[0]: torch.inference_mode()(lambda: score(job, *choice, Clock())),
        names[1]: torch.inference_mode()(lambda: plain_score(job, *theirs, rows, Clock())),
    }
    work = {names[0]: Work(least(job, choice[2]))}
    return Case(
        calls,
        [names],
        lambda outputs: {names: compare(choice[2], outputs[names[0]], outputs[names[1]])},
        work,
        rounds=3,
        scale={names[1]: (job.photos + len(job.texts)) / (2 * rows)},  # every row has k = 16 pairs
    )


def least(job: Job, pairs: Pairs) -> float:
    """GFLOP of the pairs and of the photos' keys and values at ViT-B's size, first tokens alone in the last layer."""
    lengths, row = job.tokenizer.encode(job.texts, max_length=35).attention_mask.sum(dim=1), _row(job.plain.config)
    tokens, last = lengths[pairs.texts], 4 * 768 * 768 / 1e9
    each = tokens * (11 / 12 * row + last) + (row / 12 - last)
    return job.photos * _cross(job.plain.config) + float(each.sum())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__)
    parser.add_argument("--data", nargs="+", help="photos with texts: a folder, tars, a table; default: generated ones")
    parser.add_argument("-m", "--model", default="tiny", help="for --data")
    parser.add_argument("--limit", type=int, help="photos of --data")
    parser.add_argument("-k", type=int, default=16)
    parser.add_argument("--rows", type=int, help="rows of each direction that the plain way computes; default all")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    made = options.data is None
    job = random_job(k=options.k) if made else data_job(options.model, options.data, options.limit, options.k)
    print(*machine().values(), f"load {load():.1f}", sep="\n", flush=True)
    clocks = show(job, options.rows, options.rounds)
    if made:
        best, gflop = limits().float32, least(job, choose(job, Clock())[2]) + job.photos * _vision(job.plain.config)
        share = 1e9 * gflop / best / statistics.median(sum(ours.values()) for ours, _ in clocks)
        print(f"ours is {share:.0%} of the limit: {gflop:.0f} GFLOP at {best / 1e9:.0f} GFLOP/s")


@torch.inference_mode()
def show(job: Job, rows: int | None, rounds: int) -> list[tuple[Clock, Clock]]:
    """Run both ways alternately and print seconds and ratios; the first round compares scores and memory."""
    small = replace(job, photos=1, texts=job.texts[:1])
    score(small, *choose(small, Clock()), Clock())  # packs the weights
    clocks = [(Clock(), Clock()) for _ in range(rounds)]
    for number, (ours, plain) in enumerate(clocks):

        def our_way(clock: Clock = ours) -> tuple[Pairs, Tensor]:
            choice = choose(job, clock)
            return choice[2], score(job, *choice, clock)

        def plain_way(clock: Clock = plain) -> tuple[Rows, Rows]:
            return plain_score(job, *plain_choose(job, clock), rows, clock)

        (pairs, scores), memory = highest(our_way)
        theirs, plain_memory = highest(plain_way)
        if not number:
            directed = sum(x.numel() for x in (pairs.of_image, pairs.of_text))
            print(f"{compare(pairs, scores, theirs)}; {len(scores)} pairs, {directed} with the directions apart")
            print(f"memory grows by {memory / 1e6:.0f} MB, plain {plain_memory / 1e6:.0f} MB")
            _show_recalls(job, pairs, scores)
        print(f"round {number + 1}: {sum(ours.values()):.1f} s, plain {sum(plain.values()):.1f} s", flush=True)
    if rows is not None:
        print(f"of the plain way's {_rows(job)} {rows} each were computed; its seconds are scaled up")
    _show_ratios(clocks)
    return clocks


def _show_recalls(job: Job, pairs: Pairs, scores: Tensor) -> None:
    for name, ranking in zip(("txt", "img"), rank_by_score(pairs, scores, job.owners), strict=True):
        print(*(f"{name}_r{k} {100 * (ranking.ranks < k).float().mean():.2f}" for k in KS))


def _show_ratios(clocks: Sequence[tuple[Clock, Clock]]) -> None:
    for name, side in zip(("ours", "plain"), zip(*clocks, strict=True), strict=True):
        parts = {part: statistics.median(clock[part] for clock in side) for part in side[0]}
        print(f"{name}:", ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts.items()))
    for name, left_out in (("all", ()), ("the second look", ("photos", "texts"))):
        seconds = [tuple(_total(clock, left_out) for clock in both) for both in clocks]
        ratios, medians = sorted(b / a for a, b in seconds), [statistics.median(x) for x in zip(*seconds, strict=True)]
        print(
            f"{name}: {medians[0]:.1f} s, plain {medians[1]:.1f} s, ratio {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def _total(clock: Mapping[str, float], left_out: Sequence[str]) -> float:
    return sum(seconds for part, seconds in clock.items() if part not in left_out)


if __name__ == "__main__":
    main()
