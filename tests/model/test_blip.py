"""The composed model: sharing, missing parts, and the training losses of VQA, NLVR2 and captioning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from blip.checkpoint import state_dict
from blip.model.blip import BlipModel
from blip.model.losses import lm_loss
from blip_lite.config import Family, random_tiny_config
from blip_lite.errors import MissingPart
from tests.oracle_files import oracle_config, oracle_model, tensors, values

# The float32 results recorded from the original differ from float64 by up to 5.8e-4 of the largest entry.
NOISY = {"text_decoder.bert.encoder.layer.1.crossattention.self.key.weight": 1e-3}


def check_gradients(model: BlipModel, family: Family, norms: dict[str, list[float]], full: dict[str, Tensor]) -> None:
    """Gradients under the original's names: norms to 2e-4, whole tensors to 1e-4 of their largest entry."""
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    theirs = state_dict.from_blip(grads, oracle_config(family), "original")
    compared = [name for name, (norm, _, _) in norms.items() if norm > 1e-4 and ".key.bias" not in name]
    assert len(compared) > 50
    for name in compared:
        assert theirs[name].norm().item() == pytest.approx(norms[name][0], rel=2e-4), name
    for name, expected in full.items():
        tolerance = NOISY.get(name, 1e-4) * expected.abs().max().item()
        assert_close(theirs[name].float(), expected, atol=tolerance, rtol=0, msg=name)


def full_gradients(name: str, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors(name).items() if k.startswith(prefix)}


def test_caption_loss_and_gradients_equal_the_original() -> None:
    recorded, model = tensors("caption"), oracle_model("caption").train()
    ids, mask, labels = (recorded[f"train.{n}"] for n in ("input_ids", "attention_mask", "targets"))
    embeds = model.encode_image(tensors("inputs")["images"][:4])
    loss = model.lm_loss(ids, mask, labels, embeds)
    assert_close(loss, recorded["train.loss"], atol=0, rtol=1e-5)
    assert_close(lm_loss(model.decode(ids, mask, embeds), labels, 0.1), loss, atol=0, rtol=1e-5)
    loss.backward()
    check_gradients(model, "caption", values("caption")["train.grad"], full_gradients("caption", "train.grad."))


def test_vqa_loss_and_gradients_equal_the_original() -> None:
    # float64: its answer decoder has gradients that cancel to 1e-4, where the original's own float32 is off by 1e-4
    recorded, model = tensors("vqa"), oracle_model("vqa").double().train()
    ids, mask = recorded["train.question_ids"], recorded["train.question_mask"]
    states = model.fuse(ids, mask, model.encode_image(tensors("inputs")["images"][:4].double()))
    assert_close(states.float(), recorded["train.question_states"], atol=2e-5, rtol=1e-5)
    owner = torch.repeat_interleave(torch.arange(4), recorded["train.n"])
    logits = model.decode(recorded["train.answer_ids"], recorded["train.answer_mask"], states[owner], mask[owner])
    losses = lm_loss(logits, recorded["train.answer_targets"], 0.1, "none")
    assert_close(losses.float(), recorded["train.answer_loss"], atol=0, rtol=1e-5)
    loss = (recorded["train.weights"] * losses).sum() / 4
    assert_close(loss.float(), recorded["train.loss"], atol=0, rtol=1e-5)
    loss.backward()
    check_gradients(model, "vqa", values("vqa")["train.grad"], full_gradients("vqa", "train.grad."))


def test_nlvr_loss_and_gradients_equal_the_original() -> None:
    recorded, model, images = tensors("nlvr"), oracle_model("nlvr").train(), tensors("inputs")["images"]
    embeds = model.encode_image(images[:6])
    logits = model.reason(recorded["input_ids"], recorded["attention_mask"], embeds[:3], embeds[3:])
    loss = torch.nn.functional.cross_entropy(logits, recorded["targets"])
    assert_close(loss, recorded["loss"], atol=0, rtol=1e-5)
    loss.backward()
    check_gradients(model, "nlvr", values("nlvr")["grad"], full_gradients("nlvr", "grad."))


def test_features_equal_the_original() -> None:
    recorded, model, inputs = tensors("itm"), oracle_model("retrieval"), tensors("inputs")
    embeds = model.encode_image(inputs["images"][:4])
    ids, mask = inputs["caption_ids_35"][:4].long(), inputs["caption_mask_35"][:4].long()
    text = model.project_text(model.encode_text(ids, mask))
    image = model.project_image(embeds)
    assert_close(image, recorded["image_feat"], atol=2e-5, rtol=1e-5)
    assert_close(text, recorded["text_feat"], atol=2e-5, rtol=1e-5)
    assert_close(image @ text.T, recorded["itc_sim"], atol=2e-5, rtol=1e-5)
    assert_close(model.match_logits(model.fuse(ids, mask, embeds)), recorded["itm_logits"], atol=2e-5, rtol=1e-5)


def test_pretraining_shares_all_but_self_attention() -> None:
    model = BlipModel(random_tiny_config("pretrain"))
    ours, theirs = (dict(side.named_parameters()) for side in (model.encoder, model.decoder))
    separate = {name for name in ours if ours[name] is not theirs[name]}
    assert separate == {name for name in ours if ".attn" in name}


@pytest.mark.parametrize("scope", ["valid", "all"])
def test_smoothing_scope_changes_only_ignored_positions(scope: str) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 11), torch.randint(0, 11, (2, 5))
    full = lm_loss(logits, labels, 0.1, "none", scope)  # type: ignore[arg-type]
    assert_close(full, lm_loss(logits, labels, 0.1, "none"))
    labels[:, 3:] = -100
    differs = not torch.allclose(lm_loss(logits, labels, 0.1, "none", scope), lm_loss(logits, labels, 0.1, "none"))  # type: ignore[arg-type]
    assert differs == (scope == "all")


def test_a_missing_part_names_the_families_that_have_it() -> None:
    model = BlipModel(random_tiny_config("vqa"))
    with pytest.raises(MissingPart, match=r"'vqa' model has no itm_head; families with one: retrieval, pretrain"):
        model.match_logits(torch.zeros(1, 1, 32))


def test_a_stem_reads_pixels_and_adds_class_tokens() -> None:
    config = random_tiny_config("caption")
    vision = replace(config.vision, stem="edgetpu", image_size=64, patch_size=32, class_tokens=3)
    model = BlipModel(replace(config, vision=vision)).eval()
    assert model.encode_image(torch.zeros(2, 3, 64, 64)).shape == (2, 1 + 4 + 3, 32)
