"""The text transformer in all its roles against the original's numbers."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from blip.model.losses import lm_loss
from blip.model.text import SelfCache
from tests.oracle_files import oracle_model, tensors

HIDDEN = {"atol": 2e-5, "rtol": 1e-5}
LOGITS = {"atol": 1e-4, "rtol": 1e-5}


def inputs_and_embeds() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    core, model = tensors("core"), oracle_model("retrieval")
    embeds = model.encode_image(tensors("inputs")["images"][:4])
    return core["text.input_ids"], core["text.attention_mask"], embeds


def enc(ids: torch.Tensor) -> torch.Tensor:
    ids = ids.clone()
    ids[:, 0] = 4001
    return ids


def test_text_alone_equals_the_original() -> None:
    core, model = tensors("core"), oracle_model("retrieval")
    hidden = model.encode_text(core["text.input_ids"], core["text.attention_mask"])
    assert_close(hidden, core["text.out"], **HIDDEN)


def test_every_layer_equals_the_original() -> None:
    core, encoder = tensors("core"), oracle_model("retrieval").encoder
    ids, mask, embeds = inputs_and_embeds()
    for name, cross, first in (("text", None, ids), ("mm", encoder.cross_keys_values(embeds[:2]), enc(ids))):
        seen: list[torch.Tensor] = []
        hooks = [b.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out)) for b in encoder.blocks]
        encoder(first[:2], mask[:2], cross=cross)
        assert_close(encoder.embed(first[:2], 0), core[f"{name}.hidden0"], **HIDDEN)
        for i, states in enumerate(seen, 1):
            assert_close(states, core[f"{name}.hidden{i}"], **HIDDEN)
        for hook in hooks:
            hook.remove()


def test_text_over_images_equals_the_original() -> None:
    core, model = tensors("core"), oracle_model("retrieval")
    ids, mask, embeds = inputs_and_embeds()
    assert_close(model.fuse(enc(ids), mask, embeds), core["mm.out"], **HIDDEN)
    seen = torch.ones(4, 17)
    seen[:, 10:] = 0
    assert_close(model.fuse(enc(ids), mask, embeds, seen), core["mm.out_encmask"], **HIDDEN)
    assert_close(model.fuse(enc(ids)[:, :12], mask[:, :12], embeds), core["mm.out_cut12"], **HIDDEN)


def test_attention_probabilities_equal_the_original() -> None:
    core, encoder = tensors("core"), oracle_model("retrieval").encoder
    ids, mask, embeds = inputs_and_embeds()
    block = encoder.blocks[0]
    x = encoder.embed(enc(ids), 0)
    k, _ = block.attn.keys_values(x)
    scores = block.attn.heads(block.attn.q(x)) @ k.transpose(2, 3) / k.shape[-1] ** 0.5
    probs = scores.masked_fill(~mask[:, None, None].bool(), -1e4).softmax(-1)
    assert_close(probs[:1, :, :16, :16], core["mm.self_attention_layer0"], **HIDDEN)
    x = block.attn_norm(x + block.attn(x, block.attn.keys_values(x), mask[:, None, None].bool()))
    k, _ = block.cross.keys_values(embeds)
    scores = block.cross.heads(block.cross.q(x)) @ k.transpose(2, 3) / k.shape[-1] ** 0.5
    assert_close(scores.softmax(-1)[:1, :, :16], core["mm.cross_attention_layer0"], **HIDDEN)


def test_decoder_equals_the_original() -> None:
    core, model = tensors("core"), oracle_model("caption")
    ids, mask = core["dec.input_ids"], core["dec.attention_mask"]
    cross = model.decoder.cross_keys_values(model.encode_image(tensors("inputs")["images"][3:6]))
    hidden = model.decoder(ids, mask, cross=cross, causal=True)
    assert_close(hidden, core["dec.hidden"], **HIDDEN)
    logits = model.decoder.logits(hidden)
    assert_close(logits[0, :8], core["dec.logits_seq0"], **LOGITS)
    last = logits[torch.arange(3), mask.sum(1) - 1]
    assert_close(last, core["dec.logits_last"], **LOGITS)
    assert_close(logits.logsumexp(-1), core["dec.logits_lse"], **LOGITS)
    labels = ids.masked_fill(mask == 0, -100)
    assert_close(lm_loss(logits, labels, 0.1), core["dec.loss_mean"], atol=0, rtol=1e-5)
    assert_close(lm_loss(logits, labels, 0.1, "none"), core["dec.loss_none"], atol=0, rtol=1e-5)


def test_cached_steps_equal_the_original() -> None:
    core, model = tensors("core"), oracle_model("caption")
    ids = core["dec.input_ids"][:1]
    cross = model.decoder.cross_keys_values(model.encode_image(tensors("inputs")["images"][3:4]))
    cache = SelfCache(model.config.text, 1, 16, torch.device("cpu"), torch.float32)
    model.decoder(ids[:, :3], cross=cross, causal=True, cache=cache)
    keys, values = cache.layers[0]
    assert_close(keys[:, :, :3], core["dec.past_key_layer0"], **HIDDEN)
    assert_close(values[:, :, :3], core["dec.past_value_layer0"], **HIDDEN)
    steps = [model.decoder(ids[:, t : t + 1], cross=cross, causal=True, cache=cache)[0, -1] for t in range(3, 7)]
    assert_close(model.decoder.logits(torch.stack(steps)), core["dec.step_logits"][1:], **LOGITS)


def test_rows_of_an_image_share_its_keys() -> None:
    model = oracle_model("caption")
    embeds = model.encode_image(tensors("inputs")["images"][:2])
    ids = torch.tensor([[4000, 7, 9], [4000, 8, 3], [4000, 5, 5], [4000, 2, 1]])
    shared = model.decode(ids, None, embeds)
    repeated = model.decode(ids, None, embeds.repeat_interleave(2, 0))
    assert_close(shared, repeated, **LOGITS)


def test_cross_mask_equals_the_original() -> None:
    vqa, model = tensors("vqa"), oracle_model("vqa")
    cross = model.decoder.cross_keys_values(vqa["xmask.states"])
    ids, mask = vqa["xmask.input_ids"], vqa["xmask.attention_mask"]
    hidden = model.decoder(ids, mask, cross=cross, cross_mask=vqa["xmask.mask"], causal=True)
    assert_close(hidden, vqa["xmask.hidden"], **HIDDEN)
    labels = ids.masked_fill(mask == 0, -100)
    for name, seen in (("loss", vqa["xmask.mask"]), ("loss_unmasked", None)):
        loss = lm_loss(model.decode(ids, mask, vqa["xmask.states"], seen), labels, 0.1, "none")
        assert_close(loss, vqa[f"xmask.{name}"], atol=0, rtol=1e-5)


def test_nlvr_encoder_equals_the_original() -> None:
    nlvr, model = tensors("nlvr"), oracle_model("nlvr")
    images = tensors("inputs")["images"]
    first, second = model.encode_image(images[:3]), model.encode_image(images[3:6])
    ids, mask = nlvr["input_ids"], nlvr["attention_mask"]
    assert_close(model.reason(ids, mask, first, second), nlvr["logits"], **HIDDEN)
    assert_close(model.encoder.embed(ids, 0), nlvr["hidden0"], **HIDDEN)
    seen: list[torch.Tensor] = []
    for block in model.encoder.blocks:
        block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    model.encoder(ids, mask, cross=model.encoder.cross_keys_values((first, second)))
    for i in (1, 6, 7, 8):
        assert_close(seen[i - 1], nlvr[f"hidden{i}"], **HIDDEN)
    assert_close(model.reason(ids, mask, second, first), nlvr["logits_swapped"], **HIDDEN)


def test_the_first_token_alone_is_the_same_token() -> None:
    model = oracle_model("retrieval")
    ids, mask, embeds = inputs_and_embeds()
    cross = model.encoder.cross_keys_values(embeds)
    for source in (None, cross):
        everything = model.encoder(ids, mask, cross=source)
        first = model.encoder(ids, mask, cross=source, first_only=True)
        assert first.shape == (4, 1, 32)
        assert_close(first, everything[:, :1], **HIDDEN)
