"""Training configs from presets, YAML files (ours and the original's) and overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blip.model.lora import Lora
from blip.tasks import build_task
from blip.tasks.initialize import FineTune
from blip.tasks.presets import PRESETS
from blip.train.config import TrainConfig
from blip.train.config_sources import at_line, effective_config, merge_config
from blip_lite.config import from_values
from blip_lite.errors import BlipError, ConfigError, UsageError
from tests.train.photos import caption_task, loop

ORIGINAL_CAPTION = """\
image_root: '/export/share/datasets/vision/coco/images/'
ann_root: 'annotation'
coco_gt_root: 'annotation/coco_gt'
pretrained: 'https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_base_caption_capfilt_large.pth'
vit: 'base'
vit_grad_ckpt: False
vit_ckpt_layer: 0
batch_size: 32
init_lr: 1e-5
image_size: 384
max_length: 20
min_length: 5
num_beams: 3
prompt: 'a picture of '
weight_decay: 0.05
min_lr: 0
max_epoch: 5
"""
ORIGINAL_PRETRAIN = """\
train_file: ['a.json', 'b.json']
laion_path: ''
vit: 'large'
vit_grad_ckpt: True
vit_ckpt_layer: 4
image_size: 224
batch_size: 75
queue_size: 57600
alpha: 0.4
weight_decay: 0.05
init_lr: 3e-4
min_lr: 1e-6
warmup_lr: 1e-6
lr_decay_rate: 0.9
max_epoch: 20
warmup_steps: 3000
"""


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.train])
def test_every_preset_builds(name: str) -> None:
    values = merge_config(f"preset:{name}", {"data": "photos"})
    config = from_values(TrainConfig, values.pop("train"))
    assert config.batch_size and (config.epochs or config.steps)
    assert build_task(values.pop("task"), values).name == PRESETS[name].task


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if not preset.train])
def test_presets_that_only_measure_are_not_trained(name: str) -> None:
    with pytest.raises(UsageError, match=f"preset:{name}; nothing to train"):
        merge_config(f"preset:{name}", {"data": "photos"})


def test_the_original_s_yaml_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "caption.yaml").write_text(ORIGINAL_CAPTION)
    values = merge_config(str(tmp_path / "caption.yaml"), {"data": "coco.json"})
    assert values["task"] == "caption" and values["start"]["image_size"] == 384
    assert values["prompt"] == "a picture of " and values["decoding"] == {
        "max_length": 20,
        "min_length": 5,
        "num_beams": 3,
    }
    config = from_values(TrainConfig, values["train"])
    assert (config.lr, config.epochs, config.batch_size, config.schedule) == (1e-5, 5, 32, "cosine_epoch")
    assert config.grad_checkpoint == 0
    (tmp_path / "pretrain.yaml").write_text(ORIGINAL_PRETRAIN)
    values = merge_config(str(tmp_path / "pretrain.yaml"), {})
    assert values["task"] == "pretrain" and values["data"] == ["a.json", "b.json"]
    config = from_values(TrainConfig, values["train"])
    assert (config.schedule, config.warmup_steps, config.grad_checkpoint) == ("pretrain", 3000, 4)
    assert values["start"] == {"size": "large", "image_size": 224}
    preset = {k: v for k, v in PRESETS["pretrain"].train.items() if k not in ("batch_size", "schedule", "lr")}
    assert all(
        values["train"][k] in (v, f"{v:.0e}") or float(values["train"][k]) == v
        for k, v in preset.items()
        if k != "schedule"
    )


def test_flags_win_over_set_and_set_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: caption\ndata: a\ntrain: {lr: 1, epochs: 1, seed: 1}\n")
    values = merge_config(str(path), {"train.lr": 3, "data": None}, ["train.lr=2", "train.seed=2"])
    assert values == {"task": "caption", "data": "a", "train": {"lr": 3, "epochs": 1, "seed": 2}}


def test_the_effective_config_is_a_config(tmp_path: Path) -> None:
    tune = FineTune(rates=(("vision.*", 0.1),), freeze=("vision.pos",), lora=Lora(rank=2))
    task, config = caption_task(tmp_path, tune=tune), loop(ema=0.9)
    path = tmp_path / "config.yaml"
    path.write_text(effective_config(task, config))
    values = merge_config(str(path), {})
    assert from_values(TrainConfig, values.pop("train")) == config
    assert build_task(values.pop("task"), values) == task


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "task: caption\ndata: x\ntrain:\n  lr: 1\n  btach_size: 2\n",
            5,
            "unknown key 'train.btach_size'; did you mean 'train.batch_size'?",
        ),
        ("task: caption\nprompts: x\n", 2, "unknown key 'prompts'; did you mean 'prompt'?"),
    ],
)
def test_an_unknown_key_is_named_with_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    values: dict[str, Any] = merge_config(str(path), {})
    with pytest.raises(BlipError) as caught:
        from_values(TrainConfig, values.pop("train", {"steps": 1}), "train.")
        build_task(values.pop("task"), values)
    assert str(at_line(caught.value, str(path))) == f"{path}:{line}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "must be a mapping"),
        ("init_lr: 1\nnot_known: 2", "unknown key 'not_known' of the original"),
    ],
)
def test_invalid_config_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        merge_config(str(tmp_path / "a.yaml"), {})


def test_missing_presets_and_files_are_named() -> None:
    with pytest.raises(UsageError, match="unknown preset 'caption_cocoo'; did you mean 'caption_coco'"):
        merge_config("preset:caption_cocoo", {})
    with pytest.raises(UsageError, match="no such file"):
        merge_config("nowhere.yaml", {})
