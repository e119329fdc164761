"""Training configs as plain values: presets, YAML files (ours and the original's), overrides. Does not import torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from blip.data.known_datasets import resolve
from blip.data.split import is_share
from blip.tasks.presets import PRESETS
from blip.train.config import TrainConfig
from blip_lite.errors import BlipError, ConfigError, UnknownKey, UsageError, did_you_mean
from blip_lite.text_files import read_text

if TYPE_CHECKING:
    from blip.tasks.base import Task

# original key -> ours; blip-spec 4.6. None: paths and evaluation settings, which --data and --val replace.
ORIGINAL_KEYS: dict[str, str | None] = {
    "vit": "start.size",
    "image_size": "start.image_size",
    "pretrained": "start.init",
    "prompt": "prompt",
    "queue_size": "queue_size",
    "alpha": "alpha",
    "negative_all_rank": "negatives.all_ranks",
    "k_test": "evaluation.k",
    "inference": "evaluation.mode",
    "max_length": "decoding.max_length",
    "min_length": "decoding.min_length",
    "num_beams": "decoding.num_beams",
    "init_lr": "train.lr",
    "min_lr": "train.min_lr",
    "warmup_lr": "train.warmup_lr",
    "warmup_steps": "train.warmup_steps",
    "lr_decay_rate": "train.lr_decay_rate",
    "weight_decay": "train.weight_decay",
    "max_epoch": "train.epochs",
    "batch_size": "train.batch_size",
    "batch_size_train": "train.batch_size",
    "vit_ckpt_layer": "train.grad_checkpoint",
    "train_file": "data",
    "laion_path": "web",
    **dict.fromkeys(
        (
            "vit_grad_ckpt",
            "image_root",
            "ann_root",
            "coco_gt_root",
            "vqa_root",
            "vg_root",
            "video_root",
            "train_files",
            "dataset",
            "batch_size_test",
        )
    ),
}
# task -> keys that occur only in its YAML file
ORIGINAL_TASKS: dict[str, tuple[str, ...]] = {
    "pretrain": ("warmup_steps",),
    "vqa": ("vqa_root", "inference"),
    "retrieval": ("negative_all_rank",),
    "caption": ("prompt",),
}


def merge_config(config: str | None, overrides: Mapping[str, Any], sets: Sequence[str] = ()) -> dict[str, Any]:
    """Return merged values `{"task": str, field: ..., "train": {...}}`: config, then `sets`, then `overrides`.

    config: `preset:NAME`, or a YAML file, ours (keys are the fields of the task and, under `train`, of TrainConfig) or
    the original's. sets: `a.b=value`. overrides: values by dotted key, None = not given.
    """
    merged: Any = OmegaConf.create(_read(config) if config else {})
    try:
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(sets)))
        for key, value in overrides.items():
            if value is not None:
                OmegaConf.update(merged, key, value, force_add=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"--set: {str(error).splitlines()[0]}; must be KEY=VALUE") from error
    values = OmegaConf.to_container(merged)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items()}


def at_line(error: BlipError, config: str | None) -> BlipError:
    """Return the same error with file and line if the unknown key is in a YAML file."""
    if not isinstance(error, UnknownKey) or config is None or not Path(config).is_file():
        return error
    node: Any = yaml.compose(read_text(Path(config)))
    for part in error.key.split("."):
        items = [(k, v) for k, v in getattr(node, "value", []) if isinstance(k, yaml.Node) and k.value == part]
        if not items:
            return error
        line, node = items[0][0].start_mark.line + 1, items[0][1]
    return ConfigError(f"{config}:{line}: {error}")


def _read(config: str) -> dict[str, Any]:
    if config.startswith("preset:"):
        name = config.removeprefix("preset:")
        if name not in PRESETS:
            raise UsageError(f"unknown preset '{name}'{did_you_mean(name, PRESETS)}; see 'blip train --list'")
        preset = PRESETS[name]
        if not preset.train:
            raise UsageError(f"--config preset:{name}; nothing to train: {preset.doc}")
        return {"task": preset.task, **preset.options, "train": dict(preset.train)}
    path = Path(config)
    if not path.is_file():
        raise UsageError(f"--config {config}: no such file (presets are written preset:NAME)")
    try:
        values = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    return _from_original(values, path) if "init_lr" in values else values


def _from_original(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Convert a YAML file of the original; its batch_size counts one process, ours all of them."""
    task = next((name for name, keys in ORIGINAL_TASKS.items() if any(k in values for k in keys)), "nlvr")
    ours = OmegaConf.create({"task": task})
    for key, value in values.items():
        if key not in ORIGINAL_KEYS:
            raise ConfigError(f"{path}: unknown key '{key}' of the original; the file was read as one for '{task}'")
        target = ORIGINAL_KEYS[key]
        if target is None or value == "" or (key == "vit_ckpt_layer" and not values.get("vit_grad_ckpt")):
            continue
        if task == "vqa" and key == "inference":  # ranking needs a list of answers, which is not part of the file
            continue
        OmegaConf.update(ours, target, value, force_add=True)
    if task == "retrieval":  # the original draws negatives by online features, without a floor
        OmegaConf.update(ours, "negatives.source", "online", force_add=True)
        OmegaConf.update(ours, "negatives.floor", 0.0, force_add=True)
    OmegaConf.update(ours, "train.schedule", "pretrain" if task == "pretrain" else "cosine_epoch", force_add=True)
    result = OmegaConf.to_container(ours)
    assert isinstance(result, dict)
    return {str(k): v for k, v in result.items()}


def resolve_data(values: dict[str, Any]) -> None:
    """Replace the names of known data sets (`coco`, `vqa@train+val`) by their files and image folders."""
    roots: list[str] = []
    for key, split in (("data", "train"), ("val", "val")):
        specs = values.get(key)
        if specs is None or is_share(specs):
            continue
        resolved = [resolve(spec, split) for spec in ([specs] if isinstance(specs, str) else specs)]
        paths = [path for names, _ in resolved for path in names]
        values[key] = paths[0] if len(paths) == 1 else paths
        roots += [str(root) for _, root in resolved if root is not None]
    reading = values.setdefault("reading", {})
    if roots and reading.get("root") is None:
        reading["root"] = list(dict.fromkeys(roots))
    if not reading:
        del values["reading"]


def effective_config(task: Task, config: TrainConfig) -> str:
    """Return all settings as YAML for `blip train --config`."""
    assert dataclasses.is_dataclass(task) and not isinstance(task, type)
    values = {"task": task.name, **_plain(dataclasses.asdict(task)), "train": _plain(dataclasses.asdict(config))}
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
