"""Where a task's model comes from, what of it is trained at which rate, and how it is written."""

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
BELOW = re.compile(r"vision\.(stem\.|patch_embed\.|cls_token|pos_embed)|(encoder|decoder)\.embed\.")
UNDECAYED = re.compile(r"\.embed\.|cls_token|pos_embed|class_vectors")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Weights to start from (name, file or folder), or a published size with random weights.

    vision, text: without `init`, what the two towers start from, as `blip.checkpoint.backbones` takes them
    (`deit-base`, `augreg-large` or a file; `bert-base-uncased` or a folder).
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
            raise ConfigError("start.init with start.vision or start.text; must be one of the two ways")


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """What of a model is trained, and how fast.

    freeze: parameters whose names start so are not trained. rates: factors on the learning rate by name pattern
    (`encoder.*`; the first that fits counts). layer_decay: a further factor, smaller the deeper a weight lies:
    layer_decay ** (n - i) for block i (from 0) of the n of its tower, ** (n + 1) for what lies below the blocks, 1
    above them. no_decay: norms, biases, embeddings, class token, positions and temperature have no weight decay
    (original: all have it). lora: only low-rank additions are trained, and what the weights to start from lack.
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
        """The model with what is to be trained open to gradients and everything else closed."""
        model = started.model
        if self.lora is not None:
            start = started.start
            if not (start.init or start.vision or start.text):
                raise ConfigError("tune.lora: needs weights to start from; give start.init")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(started.start.seed)
                add_lora(model, self.lora, self.freeze)
        for name, parameter in model.named_parameters():
            opened = self.lora is None or name.endswith(NAMES) or name in started.random
            parameter.requires_grad_(opened and not (self.freeze and name.startswith(self.freeze)))
        return model

    def groups(self, model: nn.Module) -> list[ParamGroup]:
        """Optimizer groups: the trained parameters that share a rate and a weight decay."""
        depths = _depths(model)
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for full_name, parameter in model.named_parameters():
            if parameter.requires_grad:
                name = full_name.removeprefix("model.")
                rate = next((factor for pattern, factor in self.rates if fnmatchcase(name, pattern)), 1.0)
                decays = not self.no_decay or (parameter.dim() > 1 and not UNDECAYED.search(name))
                scale = rate * self.layer_decay ** _layers_above(name, depths)
                groups.setdefault((scale, decays), []).append(parameter)
        return [
            ParamGroup(params=params, lr_scale=scale, weight_decay=None if decays else 0.0)
            for (scale, decays), params in groups.items()
        ]


@dataclass(frozen=True)
class InitializedModel:
    """A model ready to train, with the tokenizer that belongs to it.

    vocab: the vocabulary file, where it is not the bundled one. random: weights that what it starts from does not have.
    training: momentum weights and queues that came with it.
    """

    start: Start
    model: BlipModel
    config: BlipConfig
    tokenizer: Tokenizer
    vocab: Path | None = None
    random: tuple[str, ...] = ()
    training: Mapping[str, Tensor] = field(default_factory=dict)


def start_model(start: Start, family: Family, keep_family: bool = False) -> InitializedModel:
    """The model of a task, of the family that the task needs; with `keep_family` of that it starts from."""
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
            "%d weights are not in '%s' and start random: %s, ...", len(adapted.random), start.init, adapted.random[0]
        )
    return InitializedModel(start, model, config, loaded.tokenizer, loaded.vocab, adapted.random, loaded.training)


def _with_dropout(config: BlipConfig, dropout: float | None) -> BlipConfig:
    return config if dropout is None else replace(config, text=replace(config.text, dropout=dropout))


def _depths(model: nn.Module) -> dict[str, int]:
    """How many blocks each tower has."""
    modules = ((name.removeprefix("model."), module) for name, module in model.named_modules())
    return {name: len(list(module.children())) for name, module in modules if TOWER.fullmatch(name)}


def _layers_above(name: str, depths: dict[str, int]) -> int:
    """How many layers a weight of a tower is below the heads; 0 for what is no tower's."""
    tower, _, rest = name.partition(".")
    blocks = depths.get(f"{tower}.blocks", 0)
    if rest.startswith("blocks."):
        return blocks - int(rest.split(".")[1])
    return blocks + 1 if BELOW.match(name) else 0


def save_model(model: BlipModel, started: InitializedModel, folder: Path) -> None:
    """Writes a folder that `blip.load` reads."""
    write_folder(folder, merged_state(model), started.config, vocab=started.vocab)
