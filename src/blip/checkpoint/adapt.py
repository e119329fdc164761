"""Adapt weights to another image size or family. Every dropped and missing tensor is reported.

Same rules as salesforce/BLIP (utils and models/*.py `load_checkpoint`), which deletes keys of another shape and leaves
missing ones random without a message.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blip.checkpoint import tables
from blip.model.blip import BlipModel
from blip.model.vision import resize_pos_embed
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointMismatch

logger = logging.getLogger(__name__)

# VQA with ViT-L: the answer decoder reads question states, the pre-trained decoder wider image tokens.
MAY_DIFFER = re.compile(r"decoder\.blocks\.\d+\.cross\.[kv]\.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapted:
    """`state`: usable weights; `random`: names that keep their initial values; `dropped`: names that are not needed."""

    state: dict[str, Tensor]
    random: tuple[str, ...]
    dropped: tuple[str, ...]


def resize_positions(state: Mapping[str, Tensor], config: BlipConfig) -> dict[str, Tensor]:
    """The state (weights or training state) with position embeddings resized to the image size of `config`."""
    resized = dict(state)
    for name, tensor in state.items():
        if name.endswith("vision.pos_embed") and tensor.dim() == 3 and tensor.shape[1] != config.vision.num_tokens:
            resized[name] = resize_pos_embed(tensor.float(), config.vision.num_tokens)
            logger.info("%s: resized from %d to %d tokens", name, tensor.shape[1], config.vision.num_tokens)
    return resized


def nlvr_from_pretrained(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the encoder's cross-attention copied to both of NLVR2; merge layers and head are missing.

    Source: salesforce/BLIP models/blip_nlvr.py load_checkpoint.
    """
    dual: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(encoder\.blocks\.\d+\.cross)\.([a-z]+\.(?:weight|bias))", name)
        for copy in ("0", "1") if match else ():
            dual[f"{match[1]}.{copy}.{match[2]}"] = tensor.clone()  # type: ignore[index]
        if not match:
            dual[name] = tensor
    return dual


class _SkipInit(TorchFunctionMode):
    """Skips initialisation: for meta tensors torch would load its compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.init.normal_:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def build_on_meta(config: BlipConfig) -> BlipModel:
    """A model with weights on the device `meta`: shapes without values."""
    with torch.device("meta"), _SkipInit():
        return BlipModel(config)


def expected_shapes(config: BlipConfig) -> dict[str, torch.Size]:
    """Names and shapes of a model's weights, without allocating them."""
    return {name: tensor.shape for name, tensor in build_on_meta(config).state_dict().items()}


def for_family(state: Mapping[str, Tensor], config_from: BlipConfig, config_to: BlipConfig) -> Adapted:
    """The weights of a model of `config_from` that one of `config_to` can use (blip layout).

    pretrain -> caption, retrieval, features: complete; -> vqa: complete for equal widths; -> nlvr: without merge layers
    and head. Raises CheckpointMismatch if a shape differs for another reason than the image size.
    """
    source = resize_positions(state, config_to)
    if config_to.family == "nlvr" and config_from.family != "nlvr":
        source = nlvr_from_pretrained(source)
    for encoder, decoder in tables.shared_names(config_to).items():
        shared = source.get(decoder, source.get(encoder))
        if shared is not None:
            source[encoder] = source[decoder] = shared
    expected = expected_shapes(config_to)
    different = [name for name in source if name in expected and source[name].shape != expected[name]]
    for name in different:
        if not MAY_DIFFER.fullmatch(name):
            raise CheckpointMismatch(
                f"{name}: {list(source[name].shape)} in the {config_from.family} weights; "
                f"the {config_to.family} model needs {list(expected[name])}"
            )
    adapted = {name: source[name] for name in expected if name in source and name not in different}
    random = tuple(name for name in expected if name not in adapted)
    log_random(random)
    return Adapted(state=adapted, random=random, dropped=tuple(name for name in source if name not in expected))


def log_random(names: Sequence[str]) -> None:
    """Log how many tensors keep their random initial values, and the first few names."""
    if names:
        logger.info("%d tensors stay random: %s", len(names), ", ".join(names[:3]) + (", …" if names[3:] else ""))
