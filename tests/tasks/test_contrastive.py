"""Contrastive training steps against three recorded steps of the original, for pre-training and retrieval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from blip.checkpoint import keys
from blip.config import Family
from blip.model.losses import lm_loss
from blip.model.momentum import Twinned
from blip.tasks.contrastive import Contrast, Drawn, Negatives, contrast, draw, match
from blip.tasks.images import with_first
from tests.oracle_files import oracle_config, oracle_model, tensors, values, weights

LOSS = {"atol": 0.0, "rtol": 1e-5}
SIMS = {"atol": 1e-4, "rtol": 1e-5}


def twinned(family: Family) -> Twinned:
    """Our training state with the oracle's weights, momentum copies and queues."""
    model = oracle_model(family)
    state = weights(family)
    twin = Twinned(model, queue_size=12)
    _, training = keys.to_ours(state, oracle_config(family), "original")
    momentum = {k.removeprefix("momentum."): v for k, v in training.items() if k.startswith("momentum.")}
    twin.twin.load_state_dict(momentum)
    twin.queue.image.copy_(state["image_queue"])
    twin.queue.text.copy_(state["text_queue"])
    if "idx_queue" in state:
        twin.queue.ids.copy_(state["idx_queue"])
    return twin.train()


def original_gradients(twin: Twinned, family: Family) -> dict[str, Tensor]:
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in twin.model.named_parameters(remove_duplicate=False)
    }
    return keys.from_ours(grads, oracle_config(family), "original")


def check_gradients(found: dict[str, Tensor], norms: dict[str, list[float]], full: dict[str, Tensor]) -> None:
    compared = 0
    for name, (norm, _, _) in norms.items():
        if norm > 1e-4 and name in found and ".key.bias" not in name:
            assert found[name].norm().item() == pytest.approx(norm, rel=2e-4), name
            compared += 1
    assert compared > 50
    for name, expected in full.items():
        assert_close(found[name], expected, atol=1e-4 * expected.abs().max().item(), rtol=0, msg=name)


@dataclass
class Ran:
    itc: Contrast
    drawn: Drawn
    itm: Tensor
    logits: Tensor
    lm: Tensor | None


def step(twin: Twinned, ids: Tensor, mask: Tensor, images: Tensor, alpha: float, seed: int, **options: Any) -> Ran:
    model, negatives = twin.online, options.get("negatives", Negatives())
    torch.manual_seed(seed)
    embeds = model.encode_image(images)
    itc = contrast(twin, images, embeds, ids, mask, alpha, options.get("image_ids"))
    drawn = draw(itc, model.temperature, negatives, options.get("image_ids"))
    itm, logits = match(model, with_first(ids, 4001), mask, embeds, drawn, negatives.all_ranks)
    lm = None
    if options.get("lm"):
        labels = ids.masked_fill(mask == 0, -100)
        lm = lm_loss(model.decode(with_first(ids, 4000), mask, embeds), labels, 0.1)
    return Ran(itc, drawn, itm, logits, lm)


def check_step(ran: Ran, recorded: Callable[[str], Tensor]) -> None:
    for name in ("sim_i2t", "sim_t2i"):
        assert_close(getattr(ran.itc, name), recorded(name), **SIMS)
        assert_close(getattr(ran.itc, name.replace("sim", "targets")), recorded(f"{name}_targets"), **SIMS)
    for name in ("weights_t2i", "weights_i2t"):
        assert_close(getattr(ran.drawn, name), recorded(name), **SIMS)
    assert torch.equal(ran.drawn.images, recorded("neg_image"))
    assert torch.equal(ran.drawn.texts, recorded("neg_text"))
    assert_close(ran.logits, recorded("itm_logits"), **SIMS)
    losses = [ran.itc.loss, ran.itm] + ([] if ran.lm is None else [ran.lm])
    assert_close(torch.stack(losses), recorded("losses"), **LOSS)


def batch(family: Family, info: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    inputs, length = tensors("inputs"), 30 if family == "pretrain" else 35
    rows = slice(*info.get("slice", info.get("captions")))
    suffix = "" if family == "pretrain" else "_35"
    ids = inputs[f"caption_ids{suffix}"][rows, :length].long()
    return ids, inputs[f"caption_mask{suffix}"][rows, :length].long(), inputs["images"][rows]


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
