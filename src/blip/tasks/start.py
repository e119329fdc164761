"""Where a task's model comes from, what of it is trained at which rate, and how it is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from blip.checkpoint.files import write_folder
from blip.checkpoint.load import load, start_from
from blip.config import BlipConfig, Family, published_config, with_image_size
from blip.model.blip import BlipModel
from blip.tasks.base import ParamGroup
from blip.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights to start from (name, file or folder), or a published size with random weights."""

    init: str | None = None
    size: Literal["base", "large"] = "base"
    image_size: int | None = None
    dropout: float | None = None
    seed: int = 42


@dataclass(frozen=True)
class Started:
    """A model ready to train, with the tokenizer that belongs to it."""

    model: BlipModel
    config: BlipConfig
    tokenizer: Tokenizer
    vocab: Path | None = None  # the vocabulary file, where it is not the bundled one


def start_model(start: Start, family: Family, keep_family: bool = False) -> Started:
    """The model of a task, of the family that the task needs; with `keep_family` of that it starts from."""
    if start.init is None:
        config = published_config(family, start.size)
        if start.image_size is not None:
            config = with_image_size(config, start.image_size)
        config = _with_dropout(config, start.dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.seed)
            return Started(BlipModel(config), config, Tokenizer.from_config(config))
    loaded = load(start.init, image_size=start.image_size)
    config = _with_dropout(loaded.config, start.dropout)
    if not keep_family:
        config = replace(config, family=family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(start.seed)
        model, adapted = start_from(loaded, config)
    if adapted.random:
        logger.warning(
            "%d weights are not in '%s' and start random: %s, ...", len(adapted.random), start.init, adapted.random[0]
        )
    return Started(model, config, loaded.tokenizer, loaded.vocab)


def _with_dropout(config: BlipConfig, dropout: float | None) -> BlipConfig:
    return config if dropout is None else replace(config, text=replace(config.text, dropout=dropout))


def freeze(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Parameters whose names start with one of `prefixes` are not trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes) if prefixes else True)


def rated_groups(model: nn.Module, rates: tuple[tuple[str, float], ...]) -> list[ParamGroup]:
    """Optimizer groups by name pattern (`encoder.*`; the first that fits); what none names keeps the full rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            name = name.removeprefix("model.")
            scale = next((factor for pattern, factor in rates if fnmatchcase(name, pattern)), 1.0)
            groups.setdefault(scale, []).append(parameter)
    return [ParamGroup(params=params, lr_scale=scale) for scale, params in groups.items()]


def save_model(model: BlipModel, started: Started, folder: Path) -> None:
    """Writes a folder that `blip.load` reads."""
    write_folder(folder, model.state_dict(), started.config, vocab=started.vocab)
