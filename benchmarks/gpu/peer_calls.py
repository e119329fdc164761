"""The same work by the BLIP classes of Transformers, with the same weights and their best calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.models import photos, texts
from benchmarks.gpu.operations import NEW
from benchmarks.gpu.session import Session
from blip.model.blip import BlipModel
from blip.tokenizer import Encoded, Tokenizer
from blip_lite.config import BlipConfig

Call = Callable[[], Any]
SAMPLING = {"do_sample": True, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1}


def peer_version() -> str | None:
    """The version of Transformers, if it is installed."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return None


def _peer(session: Session, model: BlipModel, config: BlipConfig) -> Any:
    from benchmarks import peers  # imports transformers

    return peers._peer(model, config).to(session.device, session.dtype)


def _generate(
    session: Session, peer: Any, config: BlipConfig, prompt: list[int], settings: dict[str, Any], batch: int
) -> Call:
    pixels = photos(config, batch).to(session.device, session.dtype)
    ids = torch.tensor([[*prompt, config.text.sep_id]] * batch, device=session.device)  # `generate` drops the end
    forced = {"min_new_tokens": NEW, "max_new_tokens": NEW, **settings}
    return lambda: peer.generate(pixels, ids.clone(), torch.ones_like(ids), **forced)


def captions(
    session: Session, model: BlipModel, config: BlipConfig, prompt: list[int], settings: dict[str, Any]
) -> Callable[[int], Call]:
    peer = _peer(session, model, config)
    return lambda batch: _generate(session, peer, config, prompt, settings, batch)


def pairs(session: Session, model: BlipModel, config: BlipConfig, tokenizer: Tokenizer) -> Callable[[int], Call]:
    """The documented call: images and as many texts."""
    peer = _peer(session, model, config)

    def build(batch: int) -> Call:
        pixels = photos(config, batch).to(session.device, session.dtype)
        ids, mask = (x.to(session.device) for x in tokenizer.encode(texts(batch), first="enc", max_length=35))
        return lambda: peer(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=True)

    return build


def _logits(peer: Any, embeds: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    seen = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    hidden = peer.text_encoder(ids, mask, encoder_hidden_states=embeds, encoder_attention_mask=seen).last_hidden_state
    logits: Tensor = peer.itm_head(hidden[:, 0])
    return logits


def many_texts(session: Session, model: BlipModel, config: BlipConfig, encoded: Encoded) -> Callable[[int], Call]:
    """Images once, the states of each broadcast to all texts."""
    peer = _peer(session, model, config)
    ids, mask = (x.to(session.device) for x in encoded)

    def build(batch: int) -> Call:
        pixels = photos(config, batch).to(session.device, session.dtype)
        return lambda: [_logits(peer, x, ids, mask) for x in peer.vision_model(pixels)[0].split(1)]

    return build


def capfilt(
    session: Session,
    networks: Sequence[BlipModel],
    configs: Sequence[BlipConfig],
    prompt: list[int],
    tokenizer: Tokenizer,
) -> Callable[[int], Call]:
    """Sampling, then the scores of two texts per image, from one encoding of the image by each model.

    The texts to score are ready as ids, pixels are on the device; ours reads images from memory and decodes its texts.
    """
    captioner, filter = (_peer(session, *pair) for pair in zip(networks, configs, strict=True))

    def build(batch: int) -> Call:
        generate = _generate(session, captioner, configs[0], prompt, SAMPLING, batch)
        pixels = photos(configs[1], batch).to(session.device, session.dtype)
        both = [text for pair in zip(texts(batch), texts(batch, (18,)), strict=True) for text in pair]
        ids, mask = (x.to(session.device) for x in tokenizer.encode(both, first="enc", max_length=35))

        def call() -> None:
            generate()
            embeds = filter.vision_model(pixels)[0].repeat_interleave(2, 0)
            _logits(filter, embeds, ids, mask).float().softmax(-1).tolist()

        return call

    return build


def caption_training(session: Session, task: Any, batch_of: Callable[..., Any]) -> Callable[[int], Call]:
    """Forward, backward and fused AdamW under autocast."""
    started = task.setup.initialized
    peer = _peer(session, started.model, started.config).float().train()
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-5, weight_decay=0.05, fused=True)

    def build(batch: int) -> Call:
        inputs = batch_of(task, batch, texts(batch, (10,)))
        pixels, ids, mask, labels = (
            inputs[name].to(session.device) for name in ("pixel_values", "input_ids", "attention_mask", "labels")
        )

        def call() -> float:
            with torch.autocast(session.device.type, dtype=torch.bfloat16, enabled=session.is_cuda):
                loss = peer(pixel_values=pixels, input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return float(loss.detach())

        return call

    return build
