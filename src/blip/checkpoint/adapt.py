"""Weights of one model for another: other image size, other family. Every change is named and reported.

What follows is salesforce/BLIP's loading (utils and models/*.py `load_checkpoint`) without its silence: there keys
of another shape are deleted and missing ones stay random unseen.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
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

# VQA of ViT-L: the answer decoder looks at question states, the pre-trained one at wider image tokens.
MAY_DIFFER = re.compile(r"decoder\.blocks\.\d+\.cross\.[kv]\.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapted:
    """`state`: what was taken; `random`: names that the target has to keep as initialised; `dropped`: not needed."""

    state: dict[str, Tensor]
    random: tuple[str, ...]
    dropped: tuple[str, ...]


def resize_positions(state: Mapping[str, Tensor], config: BlipConfig) -> dict[str, Tensor]:
    """The state (ours, or a training state) with position embeddings for the image size of `config`."""
    resized = dict(state)
    for name, tensor in state.items():
        if name.endswith("vision.pos_embed") and tensor.shape[1] != config.vision.num_tokens:
            resized[name] = resize_pos_embed(tensor.float(), config.vision.num_tokens)
            logger.info("%s: resized from %d to %d tokens", name, tensor.shape[1], config.vision.num_tokens)
    return resized


def nlvr_from_pretrained(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's one cross-attention becomes the two of NLVR2; merge layers and head are not there yet.

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


class _NoValues(TorchFunctionMode):
    """Weights are not initialised: torch loads its compiler, for seconds, to draw random numbers that are nowhere."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is nn.init.normal_:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def without_values(config: BlipConfig) -> BlipModel:
    """A model whose weights have shapes and nothing else (they are on the device `meta`)."""
    with torch.device("meta"), _NoValues():
        return BlipModel(config)


def expected_shapes(config: BlipConfig) -> dict[str, torch.Size]:
    """Names and shapes of a model's weights, without building them."""
    return {name: tensor.shape for name, tensor in without_values(config).state_dict().items()}


def for_family(state: Mapping[str, Tensor], config_from: BlipConfig, config_to: BlipConfig) -> Adapted:
    """What a model of `config_to` can take from weights of `config_from` (both under our names).

    pretrained -> caption, retrieval, features: complete; -> vqa: complete for equal widths; -> nlvr: without merge
    layers and head. Raises CheckpointMismatch where a shape differs for another reason than image size.
    """
    source = resize_positions(state, config_to)
    if config_to.family == "nlvr" and config_from.family != "nlvr":
        source = nlvr_from_pretrained(source)
    for encoder, decoder in tables.shared_names(config_to).items():
        either = source.get(decoder, source.get(encoder))
        if either is not None:
            source[encoder] = source[decoder] = either
    wanted = expected_shapes(config_to)
    wrong = [name for name in source if name in wanted and source[name].shape != wanted[name]]
    for name in wrong:
        if not MAY_DIFFER.fullmatch(name):
            raise CheckpointMismatch(
                f"{name}: {list(source[name].shape)} in the {config_from.family} weights; "
                f"the {config_to.family} model needs {list(wanted[name])}"
            )
    taken = {name: source[name] for name in wanted if name in source and name not in wrong}
    random = tuple(name for name in wanted if name not in taken)
    if random:
        logger.info("%d tensors stay random: %s", len(random), ", ".join(random[:3]) + (", …" if random[3:] else ""))
    return Adapted(state=taken, random=random, dropped=tuple(name for name in source if name not in wanted))
