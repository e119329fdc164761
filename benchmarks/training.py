"""A training step: forward, backward, AdamW. Each side runs in a process of its own, as it is used.

Ours has glibc's malloc tuned, as `blip train` does; the peer is measured without and with that, since it holds for a
whole process. Both have torch's fused AdamW, which is the fastest for both, with rate 0 so that weights stay equal.
`python -m benchmarks.training SIDE` is such a process: it reads commands from its input and answers in lines of JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases import DTYPES, NEW, Case, Work, _cross, _each, _row, _vision
from benchmarks.peers import pair
from benchmarks.timing import Call, Timed
from blip import runtime
from blip.tasks.base import ParamGroup
from blip.train.config import TrainConfig
from blip.train.optim import build_optimizer
from blip_lite.config import published_config, with_image_size

PHOTOS = 8
OURS, PEER, TUNED = "ours", "peer", "peer, malloc tuned"
KINDS = {
    "linear layers": ("mm", "addmm", "_linear_pointwise"),
    "attention": ("bmm", "baddbmm", "_softmax", "softmax", "_softmax_backward_data", "div"),
    "GELU": ("gelu", "gelu_backward"),
    "LayerNorm": ("native_layer_norm", "native_layer_norm_backward"),
    "additions and sums": ("add", "add_", "sum"),
    "copies": ("_to_copy", "copy_", "clone", "cat"),
    "optimizer": ("_fused_adamw_",),
}


def case() -> Case:
    """One step on 8 photos at 224 px with 20 tokens each."""
    sides = {side: Process(side) for side in (OURS, PEER, TUNED)}
    calls: dict[str, Call] = {
        f"{side.partition(',')[0]} {name}{''.join(side.partition(',')[1:])}": _step_of(process, name)
        for name in DTYPES
        for side, process in sides.items()
    }
    pairs = [(f"ours {a}", f"peer {b}{how}") for a, b in _PRECISIONS for how in ("", ", malloc tuned")]
    config = with_image_size(published_config("caption"), 224)
    work = Work(3 * PHOTOS * (_vision(config) + _cross(config) + NEW * _row(config)))
    return Case(calls, pairs, _same_loss, {"ours f32": work, "ours bf16": work}, 3)


_PRECISIONS = (("f32", "f32"), ("bf16", "f32"), ("bf16", "bf16"))


def _step_of(process: Process, name: str) -> Call:
    def call() -> Timed:
        values = process.ask(f"step {name}")
        return Timed(values["loss"], values["cpu"], values["wall"])

    return call


def _same_loss(outputs: dict[str, Timed]) -> dict[tuple[str, str], str]:
    def remark(a: Timed, b: Timed, exact: bool) -> str:
        assert abs(a.result - b.result) < (1e-5 if exact else 0.05) * b.result, f"losses differ: {a} {b}"
        return f"loss {a.result:.4f}, {b.result:.4f}"

    return _each(outputs, remark)


def parts(name: str, rounds: int = 3) -> dict[str, float]:
    """Median milliseconds of processor time of each kind of operation in one of our steps in precision `name`."""
    process = Process(OURS)
    process.ask(f"step {name}")  # untimed
    runs = [process.ask(f"parts {name}") for _ in range(rounds)]
    return {kind: 1e3 * statistics.median(run[kind] for run in runs) for kind in runs[0]}


class Process:
    """A side in a process of its own, started at the first command; it ends when this object is dropped."""

    def __init__(self, side: str) -> None:
        self.side = side

    @cached_property
    def _process(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "benchmarks.training", self.side]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, command: str) -> dict[str, float]:
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None and writer is not None
        print(command, file=writer, flush=True)
        for line in reader:
            if line.startswith("{"):  # libraries may print too
                answer: dict[str, float] = json.loads(line)
                return answer
        raise SystemExit(f"benchmarks.training {self.side}: ended with status {self._process.wait()}")


class Kinds(TorchDispatchMode):
    """Processor time of the operations by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys((*KINDS, "other operations"), 0.0)
        self._kinds = {name: kind for kind, names in KINDS.items() for name in names}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.process_time()
        result = function(*args, **(kwargs or {}))
        kind = self._kinds.get(function._overloadpacket.__name__, "other operations")
        self.seconds[kind] += time.process_time() - start
        return result


def answers(side: str) -> Iterator[dict[str, float]]:
    """Answers to the commands on the standard input."""
    if side != PEER:
        runtime.tune_glibc_malloc()
    step = _step(ours=side == OURS)
    for line in sys.stdin:
        command, name = line.split()
        with Kinds() if command == "parts" else torch.enable_grad() as watch:
            cpu, wall = time.process_time(), time.perf_counter()
            loss = step(DTYPES[name])
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        yield {"loss": loss, "cpu": cpu, "wall": wall} if command == "step" else dict(watch.seconds)


def _step(ours: bool) -> Callable[[torch.dtype], float]:
    p = pair("caption", 224)
    pixels, ids = (
        p.photos(PHOTOS),
        torch.randint(1000, 30000, (PHOTOS, NEW), generator=torch.Generator().manual_seed(0)),
    )
    prompt = p.tokenizer.prompt_ids(p.config.prompt)
    ids[:, : len(prompt)] = torch.tensor(prompt)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, : len(prompt)] = -100
    model: Any = (p.plain if ours else p.peer).train()
    parameters = [q for q in model.parameters() if q.requires_grad]
    optimizer = (
        build_optimizer([ParamGroup(params=parameters)], TrainConfig(lr=0.0))
        if ours
        else torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.05, fused=True)
    )

    def loss() -> Tensor:
        if ours:
            return model.lm_loss(ids, mask, labels, model.encode_image(pixels))
        return model(pixel_values=pixels, input_ids=ids, attention_mask=mask, labels=labels).loss

    def step(dtype: torch.dtype) -> float:
        with runtime.autocast(pixels.device, dtype):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.item()

    return step


if __name__ == "__main__":
    for answer in answers(sys.argv[1]):
        print(json.dumps(answer), flush=True)
