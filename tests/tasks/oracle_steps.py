"""One contrastive training step of ours with the oracle's weights and inputs, and how it is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from blip.checkpoint import state_dict
from blip.model.losses import lm_loss
from blip.model.momentum import MomentumModel
from blip.tasks.contrastive import Contrast, HardNegatives, Negatives, contrast, draw_hard_negatives, match
from blip.tasks.images import with_first
from blip_lite.config import Family
from tests.oracle_files import oracle_config, oracle_model, tensors, weights

LOSS = {"atol": 0.0, "rtol": 1e-5}
SIMS = {"atol": 1e-4, "rtol": 1e-5}


def momentum_model(family: Family) -> MomentumModel:
    """Our training state with the oracle's weights, momentum copies and queues."""
    model = oracle_model(family)
    state = weights(family)
    wrapper = MomentumModel(model, queue_size=12)
    _, training = state_dict.to_blip(state, oracle_config(family), "original")
    momentum = {k.removeprefix("momentum."): v for k, v in training.items() if k.startswith("momentum.")}
    wrapper.momentum_encoders.load_state_dict(momentum)
    wrapper.queue.image.copy_(state["image_queue"])
    wrapper.queue.text.copy_(state["text_queue"])
    if "idx_queue" in state:
        wrapper.queue.ids.copy_(state["idx_queue"])
    return wrapper.train()


def original_gradients(wrapper: MomentumModel, family: Family) -> dict[str, Tensor]:
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in wrapper.model.named_parameters(remove_duplicate=False)
    }
    return state_dict.from_blip(grads, oracle_config(family), "original")


def check_gradients(gradients: dict[str, Tensor], norms: dict[str, list[float]], full: dict[str, Tensor]) -> None:
    compared = 0
    for name, (norm, _, _) in norms.items():
        if norm > 1e-4 and name in gradients and ".key.bias" not in name:
            assert gradients[name].norm().item() == pytest.approx(norm, rel=2e-4), name
            compared += 1
    assert compared > 50
    for name, expected in full.items():
        assert_close(gradients[name], expected, atol=1e-4 * expected.abs().max().item(), rtol=0, msg=name)


@dataclass
class Ran:
    itc: Contrast
    drawn: HardNegatives
    itm: Tensor
    logits: Tensor
    lm: Tensor | None


def step(
    wrapper: MomentumModel, ids: Tensor, mask: Tensor, images: Tensor, alpha: float, seed: int, **options: Any
) -> Ran:
    model, negatives = wrapper.model, options.get("negatives", Negatives())
    torch.manual_seed(seed)
    wrapper.before_step()
    embeds = model.encode_image(images)
    itc = contrast(wrapper, images, embeds, ids, mask, alpha, options.get("image_ids"))
    drawn = draw_hard_negatives(itc, model.temperature, negatives, options.get("image_ids"))
    itm, logits = match(model, with_first(ids, 4001), mask, embeds, drawn)
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
