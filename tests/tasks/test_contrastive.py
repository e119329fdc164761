"""Contrastive training steps against three recorded steps of the original, for pre-training and retrieval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from blip.checkpoint import keys
from blip.config import Family
from blip.model.momentum import Twinned
from blip.tasks.contrastive import Negatives
from tests.oracle_files import oracle_config, tensors, values
from tests.tasks.oracle_steps import LOSS, SIMS, batch, check_gradients, check_step, original_gradients, step, twinned


def run_steps(family: Family, **options: Any) -> None:
    name = "pretrain" if family == "pretrain" else "retrieval_train"
    recorded, notes = tensors(name), values(name)
    twin = twinned(family)
    trained = [p for p in twin.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.05)
    for i, info in enumerate(notes["steps"][:3]):
        optimizer.param_groups[0]["lr"] = info["lr"]
        ids, mask, pixels = batch(family, info)
        more = {"image_ids": recorded[f"step{i}.idx"]} if family == "retrieval" else {"lm": True}
        ran = step(twin, ids, mask, pixels, info["alpha"], info["seed"], negatives=options["negatives"], **more)
        check_step(ran, lambda name, i=i: recorded[f"step{i}.{name}"])
        optimizer.zero_grad()
        (ran.itc.loss + ran.itm + (0 if ran.lm is None else ran.lm)).backward()
        full = {k.removeprefix(f"step{i}.grad."): v for k, v in recorded.items() if k.startswith(f"step{i}.grad.")}
        check_gradients(original_gradients(twin, family), notes[f"step{i}.grad"], full)
        optimizer.step()
        assert_close(twin.queue.image, recorded[f"step{i}.image_queue"], atol=2e-5, rtol=0)
        assert_close(twin.queue.text, recorded[f"step{i}.text_queue"], atol=2e-5, rtol=0)
        if family == "retrieval":
            assert torch.equal(twin.queue.ids, recorded[f"step{i}.idx_queue"])
        check_after(twin, family, {k: v for k, v in recorded.items() if k.startswith(f"step{i}.after.")})


def check_after(twin: Twinned, family: Family, after: dict[str, Tensor]) -> None:
    config = oracle_config(family)
    momentum = {f"momentum.{name}": tensor for name, tensor in twin.twin.state_dict().items()}
    found = keys.from_ours(twin.model.state_dict(), config, "original", momentum)
    for key, expected in after.items():
        name = key.split(".after.")[1]
        assert_close(found[name], expected, atol=2e-6, rtol=0, msg=name)


def test_pretraining_steps_equal_the_original() -> None:
    run_steps("pretrain", negatives=Negatives())


def test_retrieval_steps_equal_the_original() -> None:
    run_steps("retrieval", negatives=Negatives(source="online", floor=0.0))


def test_negatives_of_all_ranks_on_one_rank_equal_the_original() -> None:
    recorded, info = tensors("retrieval_train"), values("retrieval_train")["steps"][3]
    twin = twinned("retrieval")
    ids, mask, pixels = batch("retrieval", info)
    negatives = Negatives(source="online", floor=0.0, all_ranks=True)
    ran = step(
        twin, ids, mask, pixels, info["alpha"], info["seed"], image_ids=recorded["step0.idx"], negatives=negatives
    )
    for name in ("weights_t2i", "weights_i2t"):
        assert_close(getattr(ran.drawn, name), recorded[f"allrank.step0.{name}"], **SIMS)
    assert_close(torch.stack([ran.itc.loss, ran.itm]), recorded["allrank.step0.losses"], **LOSS)
    (ran.itc.loss + ran.itm).backward()
    check_gradients(original_gradients(twin, "retrieval"), values("retrieval_train")["allrank.step0.grad"], {})


def test_a_batch_of_one_photo_has_no_negatives_and_still_trains() -> None:
    twin = twinned("retrieval")
    ids, mask, pixels = batch("retrieval", {"slice": [0, 1]})
    ran = step(twin, ids, mask, pixels, 0.4, 0, image_ids=torch.tensor([3]), negatives=Negatives(source="online"))
    assert ran.logits.shape == (1, 2)
    assert torch.isfinite(ran.itc.loss + ran.itm)
