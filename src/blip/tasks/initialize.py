"""Starting model of a task, its trainable parameters with their learning rates, and saving it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from blip.checkpoint.backbones import start_backbones
from blip.checkpoint.files import write_folder
from blip.checkpoint.load import load, start_from
from blip.model.blip import BlipModel
from blip.model.lora import NAMES, Lora, add_lora, merged_state
from blip.tasks.base import ParamGroup
from blip.tokenizer import Tokenizer
from blip_lite.config import BlipConfig, Family, published_config, with_image_size
from blip_lite.errors import ConfigError

logger = logging.getLogger(__name__)

TOWER = re.compile(r"(vision|encoder|decoder)\.blocks")
BELOW_BLOCKS = re.compile(r"vision\.(stem\.|patch_embed\.|cls_token|pos_embed)|(encoder|decoder)\.embed\.")
NO_DECAY = re.compile(r"\.embed\.|cls_token|pos_embed|class_vectors")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Starting weights (name, file or folder), or a published size with random weights.

    vision, text: without `init`, starting weights of the two towers for `blip.checkpoint.backbones` (`deit-base`,
    `augreg-large` or a file; `bert-base-uncased` or a folder).
    """

    init: str | None = None
    vision: str | None = None
    text: str | None = None
    size: Literal["base", "large"] = "base"
    image_size: int | None = None
    dropout: float | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.init is not None and (self.vision or self.text):
            raise ConfigError("start.init with start.vision or start.text; give one of the two")


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Trainable parameters and their learning rates.

    freeze: name prefixes of parameters that are not trained. rates: learning-rate factors by name pattern
    (`encoder.*`; the first match counts). layer_decay: a further factor per layer: layer_decay ** (n - i) for block i
    (from 0) of the n blocks of its tower, ** (n + 1) below the blocks, 1 above them. no_decay: no weight decay for
    norms, biases, embeddings, class token, positions and temperature (original: all have it). lora: train only low-rank
    adapters, and parameters that the starting weights do not have.
    """

    freeze: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    layer_decay: float = 1.0
    no_decay: bool = False
    lora: Lora | None = None

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"tune.layer_decay {self.layer_decay}: must be above 0 and at most 1")

    def prepare(self, started: InitializedModel) -> BlipModel:
        """Return the model with `requires_grad` set for the parameters to train."""
        model = started.model
        if self.lora is not None:
            start = started.start
            if not (start.init or start.vision or start.text):
                raise ConfigError("tune.lora: needs starting weights; give start.init")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(started.start.seed)
                add_lora(model, self.lora, self.freeze)
        for name, parameter in model.named_parameters():
            trainable = self.lora is None or name.endswith(NAMES) or name in started.random
            parameter.requires_grad_(trainable and not (self.freeze and name.startswith(self.freeze)))
        return model

    def groups(self, model: nn.Module) -> list[ParamGroup]:
        """Return optimizer groups: trained parameters that share a learning rate and a weight decay."""
        depths = _depths(model)
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for full_name, parameter in model.named_parameters():
            if parameter.requires_grad:
                name = full_name.removeprefix("model.")
                rate = next((factor for pattern, factor in self.rates if fnmatchcase(name, pattern)), 1.0)
                decays = not self.no_decay or (parameter.dim() > 1 and not NO_DECAY.search(name))
                scale = rate * self.layer_decay ** _layers_above(name, depths)
                groups.setdefault((scale, decays), []).append(parameter)
        return [
            ParamGroup(params=params, lr_scale=scale, weight_decay=None if decays else 0.0)
            for (scale, decays), params in groups.items()
        ]


@dataclass(frozen=True)
class InitializedModel:
    """A model with its starting weights and its tokenizer.

    vocab: vocabulary file, if not the bundled one. random: names of parameters missing in the starting weights.
    training: momentum weights and queues stored with the starting weights.
    """

    start: Start
    model: BlipModel
    config: BlipConfig
    tokenizer: Tokenizer
    vocab: Path | None = None
    random: tuple[str, ...] = ()
    training: Mapping[str, Tensor] = field(default_factory=dict)


def start_model(start: Start, family: Family, keep_family: bool = False) -> InitializedModel:
    """Return the starting model in the family of the task, or with keep_family in its own."""
    if start.init is None:
        config = published_config(family, start.size)
        if start.image_size is not None:
            config = with_image_size(config, start.image_size)
        config = _with_dropout(config, start.dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.seed)
            model = BlipModel(config)
        random = start_backbones(model, start.vision, start.text) if start.vision or start.text else ()
        return InitializedModel(start, model, config, Tokenizer.from_config(config), random=random)
    loaded = load(start.init, image_size=start.image_size)
    config = _with_dropout(loaded.config, start.dropout)
    if not keep_family:
        config = replace(config, family=family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(start.seed)
        model, adapted = start_from(loaded, config)
    if adapted.random:
        logger.warning(
            "%d weights are missing in '%s' and start random: %s, ...",
            len(adapted.random),
            start.init,
            adapted.random[0],
        )
    return InitializedModel(start, model, config, loaded.tokenizer, loaded.vocab, adapted.random, loaded.training)


def _with_dropout(config: BlipConfig, dropout: float | None) -> BlipConfig:
    return config if dropout is None else replace(config, text=replace(config.text, dropout=dropout))


def _depths(model: nn.Module) -> dict[str, int]:
    """Number of blocks of each tower."""
    modules = ((name.removeprefix("model."), module) for name, module in model.named_modules())
    return {name: len(list(module.children())) for name, module in modules if TOWER.fullmatch(name)}


def _layers_above(name: str, depths: dict[str, int]) -> int:
    """Number of layers between a parameter and the heads; 0 outside the towers."""
    tower, _, rest = name.partition(".")
    blocks = depths.get(f"{tower}.blocks", 0)
    if rest.startswith("blocks."):
        return blocks - int(rest.split(".")[1])
    return blocks + 1 if BELOW_BLOCKS.match(name) else 0


def save_model(model: BlipModel, started: InitializedModel, folder: Path) -> None:
    """Write a folder that `blip.load` reads."""
    write_folder(folder, merged_state(model), started.config, vocab=started.vocab)
