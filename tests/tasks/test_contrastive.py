"""Contrastive training steps against three recorded steps of the original, for pre-training and retrieval."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from blip.checkpoint import state_dict
from blip.model.losses import itc_loss
from blip.model.momentum import MomentumModel
from blip.tasks.contrastive import Negatives, hard_targets
from blip.tasks.images import with_first
from blip_lite.config import Family
from tests.oracle_files import oracle_config, tensors, values
from tests.tasks.oracle_steps import (
    LOSS,
    SIMS,
    batch,
    check_gradients,
    check_step,
    momentum_model,
    original_gradients,
    step,
)


def run_steps(family: Family, **options: Any) -> None:
    name = "pretrain" if family == "pretrain" else "retrieval_train"
    recorded, notes = tensors(name), values(name)
    model = momentum_model(family)
    trained = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.05)
    for i, info in enumerate(notes["steps"][:3]):
        optimizer.param_groups[0]["lr"] = info["lr"]
        ids, mask, pixels = batch(family, info)
        more = {"image_ids": recorded[f"step{i}.idx"]} if family == "retrieval" else {"lm": True}
        ran = step(model, ids, mask, pixels, info["alpha"], info["seed"], negatives=options["negatives"], **more)
        check_step(ran, lambda name, i=i: recorded[f"step{i}.{name}"])
        optimizer.zero_grad()
        (ran.itc.loss + ran.itm + (0 if ran.lm is None else ran.lm)).backward()
        full = {k.removeprefix(f"step{i}.grad."): v for k, v in recorded.items() if k.startswith(f"step{i}.grad.")}
        check_gradients(original_gradients(model, family), notes[f"step{i}.grad"], full)
        optimizer.step()
        assert_close(model.queue.image, recorded[f"step{i}.image_queue"], atol=2e-5, rtol=0)
        assert_close(model.queue.text, recorded[f"step{i}.text_queue"], atol=2e-5, rtol=0)
        if family == "retrieval":
            assert torch.equal(model.queue.ids, recorded[f"step{i}.idx_queue"])
        after = {k: v for k, v in recorded.items() if k.startswith(f"step{i}.after.")}
        check_after(model, family, after, notes[f"step{i}.state_after"])


def check_after(model: MomentumModel, family: Family, after: dict[str, Tensor], sizes: dict[str, list[float]]) -> None:
    """`after`: whole weights after a step; `sizes`: norm and sum of every one, momentum copies and queues included."""
    config = oracle_config(family)
    momentum = {f"momentum.{name}": tensor for name, tensor in model.momentum_encoders.state_dict().items()}
    result = state_dict.from_blip(model.model.state_dict(), config, "original", momentum)
    for key, expected in after.items():
        name = key.split(".after.")[1]
        assert_close(result[name], expected, atol=2e-6, rtol=0, msg=name)
    result |= {"image_queue": model.queue.image, "text_queue": model.queue.text}
    assert set(sizes) == {name for name, tensor in result.items() if tensor.is_floating_point()}
    for name, (norm, total) in sizes.items():
        # left out: the gradient of a key's bias is zero but for rounding, which AdamW turns into steps of full size
        if not name.endswith(("key.bias", "qkv.bias")):
            assert result[name].norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-6), name
            assert result[name].sum().item() == pytest.approx(total, rel=1e-5, abs=2e-4), name


def test_pretraining_steps_equal_the_original() -> None:
    run_steps("pretrain", negatives=Negatives())


def test_retrieval_steps_equal_the_original() -> None:
    run_steps("retrieval", negatives=Negatives(source="online", floor=0.0))


def test_negatives_of_all_ranks_on_one_rank_equal_the_original() -> None:
    recorded, info = tensors("retrieval_train"), values("retrieval_train")["steps"][3]
    model = momentum_model("retrieval")
    ids, mask, pixels = batch("retrieval", info)
    negatives = Negatives(source="online", floor=0.0, all_ranks=True)
    ran = step(
        model, ids, mask, pixels, info["alpha"], info["seed"], image_ids=recorded["step0.idx"], negatives=negatives
    )
    for name in ("weights_t2i", "weights_i2t"):
        assert_close(getattr(ran.drawn, name), recorded[f"allrank.step0.{name}"], **SIMS)
    assert torch.equal(ran.drawn.images, recorded["allrank.step0.neg_image"])
    assert torch.equal(ran.drawn.texts, recorded["allrank.step0.neg_text"])
    assert_close(torch.stack([ran.itc.loss, ran.itm]), recorded["allrank.step0.losses"], **LOSS)
    (ran.itc.loss + ran.itm).backward()
    check_gradients(original_gradients(model, "retrieval"), values("retrieval_train")["allrank.step0.grad"], {})


def test_features_and_momentum_similarities_of_the_first_step_equal_the_original() -> None:
    recorded, info = tensors("pretrain"), values("pretrain")["steps"][0]
    model = momentum_model("pretrain")
    ids, mask, pixels = batch("pretrain", info)
    assert torch.equal(ids, recorded["step0.input_ids"])
    assert torch.equal(mask, recorded["step0.attention_mask"])
    queues = {"i2t": model.queue.text.clone(), "t2i": model.queue.image.clone()}
    ran = step(model, ids, mask, pixels, info["alpha"], info["seed"], lm=True)
    with torch.no_grad():  # the momentum encoders are updated before they are used
        momentum = {
            "i2t": model.momentum_encoders.image_features(pixels),
            "t2i": model.momentum_encoders.text_features(ids, mask),
        }
        decoded = model.model.decode(with_first(ids, 4000), mask, model.model.encode_image(pixels))
    assert_close(ran.itc.image_features, recorded["step0.image_feat"], atol=2e-5, rtol=0)
    assert_close(ran.itc.text_features, recorded["step0.text_feat"], atol=2e-5, rtol=0)
    assert_close(momentum["i2t"], recorded["step0.image_feat_m"], atol=2e-5, rtol=0)
    assert_close(momentum["t2i"], recorded["step0.text_feat_m"], atol=2e-5, rtol=0)
    for way, other in (("i2t", "t2i"), ("t2i", "i2t")):
        everything = torch.cat([momentum[other].T, queues[way]], dim=1)
        assert_close(momentum[way] @ everything / model.model.temperature, recorded[f"step0.sim_{way}_m"], **SIMS)
    halves = [itc_loss(ran.itc.sim_i2t, ran.itc.targets_i2t), itc_loss(ran.itc.sim_t2i, ran.itc.targets_t2i)]
    assert_close(torch.stack(halves), recorded["step0.loss_i2t_t2i"], **LOSS)
    assert_close(decoded.logsumexp(dim=-1), recorded["step0.decoder_logits_lse"], atol=1e-4, rtol=0)
    labels = with_first(ids, 4000).masked_fill(mask == 0, -100)
    assert torch.equal(labels, recorded["step0.decoder_targets"])


def test_targets_of_repeated_photos_equal_the_original() -> None:
    recorded, queued = tensors("retrieval_train"), torch.full((12,), -100)
    for i in range(3):
        ids = recorded[f"step{i}.idx"]
        assert_close(hard_targets(len(ids), len(ids) + 12, ids, queued), recorded[f"step{i}.sim_targets"])
        queued = recorded[f"step{i}.idx_queue"][0]


def test_a_batch_of_one_photo_has_no_negatives_and_still_trains() -> None:
    model = momentum_model("retrieval")
    ids, mask, pixels = batch("retrieval", {"slice": [0, 1]})
    ran = step(model, ids, mask, pixels, 0.4, 0, image_ids=torch.tensor([3]), negatives=Negatives(source="online"))
    assert ran.logits.shape == (1, 2)
    assert torch.isfinite(ran.itc.loss + ran.itm)
