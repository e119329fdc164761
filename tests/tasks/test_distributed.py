"""Two gloo processes against the recorded two-process steps of the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.testing import assert_close

from blip.tasks.contrastive import Negatives, hard_targets
from blip_lite.config import Family
from tests.oracle_files import tensors, values
from tests.tasks.oracle_steps import LOSS, SIMS, batch, check_gradients, momentum_model, original_gradients, step

IDS = ([0, 1, 1], [2, 3, 0])


CASES: list[tuple[Family, bool, str]] = [
    ("retrieval", True, "retrieval.allrank"),
    ("retrieval", False, "retrieval.samerank"),
    ("pretrain", False, "pretrain"),
]


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for family, all_ranks, name in CASES:
        torch.save(one_step(rank, family, all_ranks), f"{folder}/{name}.rank{rank}.pt")
    dist.destroy_process_group()


def one_step(rank: int, family: Family, all_ranks: bool) -> dict[str, Any]:
    """One step on this rank's rows; gradients are averaged over the ranks as DistributedDataParallel does."""
    model = momentum_model(family)
    options: dict[str, Any] = {"lm": True}
    rows, seed = 2, 400 + rank
    if family == "retrieval":
        rows, seed = 3, 300 + rank
        negatives = Negatives(source="online", floor=0.0, all_ranks=all_ranks)
        options = {"image_ids": torch.tensor(IDS[rank]), "negatives": negatives}
    queued = model.queue.ids[0].clone()
    ids, mask, pixels = batch(family, {"slice": [rows * rank, rows * rank + rows]})
    ran = step(model, ids, mask, pixels, 0.4, seed, **options)
    losses = [ran.itc.loss, ran.itm] + ([] if ran.lm is None else [ran.lm])
    torch.stack(losses).sum().backward()
    for parameter in model.model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= 2
    result = {
        "losses": torch.stack(losses).detach(),
        "sim_i2t": ran.itc.sim_i2t.detach(),
        "sim_targets": hard_targets(rows, ran.itc.sim_i2t.shape[1], options.get("image_ids"), queued),
        "weights_t2i": ran.drawn.weights_t2i,
        "weights_i2t": ran.drawn.weights_i2t,
        "neg_image": ran.drawn.images,
        "neg_text": ran.drawn.texts,
        "image_queue": model.queue.image,
        "idx_queue": model.queue.ids,
        "ptr": model.queue.pointer,
    }
    return {"found": result, "gradients": original_gradients(model, family)}


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of both ranks, of all cases: the two processes start once."""
    folder = tmp_path_factory.mktemp("steps")
    mp.spawn(run_rank, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", [name for _, _, name in CASES])
def test_two_processes_equal_the_original(steps: Path, name: str) -> None:
    recorded, compared = tensors("distributed"), 0
    results = [torch.load(steps / f"{name}.rank{rank}.pt", weights_only=True) for rank in range(2)]
    for rank, result in enumerate(results):
        for part, value in result["found"].items():
            expected = recorded.get(f"{name}.{part}.rank{rank}", recorded.get(f"{name}.{part}"))
            if expected is not None:
                compare(part, value, expected)
                compared += 1
    assert compared >= 12
    full = {k.split(".fullgrad.")[1]: v for k, v in recorded.items() if k.startswith(f"{name}.fullgrad.")}
    check_gradients(results[0]["gradients"], values("distributed")[f"{name}.grad"], full)


def compare(part: str, result: Tensor, expected: Tensor) -> None:
    if expected.dtype == torch.int64:
        assert torch.equal(result, expected), part
    elif part == "losses":
        assert_close(result, expected, **LOSS)
    elif part == "image_queue":
        assert_close(result, expected, atol=2e-5, rtol=0)
    else:
        assert_close(result, expected, **SIMS)
