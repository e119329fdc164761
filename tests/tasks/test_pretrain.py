"""Pre-training as a task: the paper's losses, extra losses, cached features, learning rates by name."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from blip.checkpoint.files import write_folder
from blip.data.loader import SampleRef
from blip.data.sources import open_source
from blip.model.blip import BlipModel
from blip.model.momentum import MomentumModel
from blip.tasks import build_task
from blip.tasks.base import Step
from blip.tasks.images import Augment
from blip.tasks.initialize import FineTune, Start
from blip.tasks.pretrain import PretrainOutputs, PretrainTask
from blip_lite.config import BlipConfig, TextConfig, VisionConfig
from blip_lite.errors import ConfigError
from tests.train.photos import write_photos


@pytest.fixture(scope="module")
def stemmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder `init` of a very small model over the convolutional stem, with random weights."""
    folder = tmp_path_factory.mktemp("stemmed")
    vision = VisionConfig(
        image_size=64, patch_size=32, width=32, num_layers=1, num_heads=2, mlp_width=64, stem="edgetpu", class_tokens=3
    )
    text = TextConfig(width=32, num_layers=2, num_heads=2, mlp_width=64, max_length=64, dropout=0.0)
    torch.manual_seed(0)
    config = BlipConfig(family="pretrain", vision=vision, text=text, proj_width=16, prompt="")
    write_folder(folder / "init", BlipModel(config).state_dict(), config, vocab=None)
    return folder


def test_cached_features_of_a_frozen_stem_replace_pixels(stemmed: Path, tmp_path: Path) -> None:
    source = str(write_photos(tmp_path / "photos"))
    plain = PretrainTask(data=source, start=Start(init=str(stemmed / "init")), queue_size=6)
    model = cast(MomentumModel, plain.setup.build_model().eval())
    data, vision = plain.dataset(), model.model.vision
    with torch.no_grad():
        pixels = torch.stack([data[SampleRef(i, 0, i)].pixel_values for i in range(len(data))])
        grids = vision.read_pixels(pixels)[0]
        assert torch.equal(vision(grids), vision(pixels))
    np.save(tmp_path / "features.npy", grids[:, None].half().numpy())
    names = [Path(record.key).stem for record in open_source(source).samples]
    (tmp_path / "features.json").write_text(json.dumps(names))
    augment = Augment(cached_features=str(tmp_path / "features.npy"))
    task = replace(plain, augment=augment, tune=FineTune(freeze=("vision.stem",)))
    batch = task.collate([task.dataset()[SampleRef(i, 0, i)] for i in range(4)])
    assert_close(batch["pixel_values"], grids[:4].half().float())
    losses = task.loss(task.setup.build_model().train(), batch, Step(0, 0, 1))
    losses["loss"].backward()
    (tmp_path / "features.json").write_text(json.dumps(names[:2]))
    with pytest.raises(ConfigError, match=f"cached_features: no features of image '{names[2]}'"):
        task.dataset()[SampleRef(2, 0, 0)]


@dataclass
class FeatureNorm:
    """An extra loss for tests."""

    weight: float = 1.0

    def prepare(self, task: PretrainTask) -> None:
        self.queue_size = task.queue_size

    def __call__(self, outputs: PretrainOutputs) -> torch.Tensor:
        return self.weight * self.queue_size * outputs.text_features.norm(dim=1).mean()


def test_extra_losses_are_named_by_import_path_and_added(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "photos")
    options = {"class": "tests.tasks.test_pretrain:FeatureNorm", "weight": 0.5}
    values = {"data": str(data), "start": {"init": "random-tiny"}, "queue_size": 6, "extra_losses": {"norm": options}}
    losses = {}
    for name, changes in (("plain", {"extra_losses": {}}), ("extra", {}), ("no lm", {"lm_weight": 0.0})):
        task = build_task("pretrain", {**values, **changes})
        batch = task.collate([task.dataset()[SampleRef(i, 0, i)] for i in range(4)])
        torch.manual_seed(0)
        losses[name] = task.loss(task.setup.build_model().eval(), batch, Step(0, 0, 1))
    assert list(losses["plain"]) == ["loss", "itc", "itm", "lm"]
    assert list(losses["extra"]) == ["loss", "itc", "itm", "lm", "norm"] and losses["extra"]["norm"] == 3.0
    assert losses["extra"]["loss"].item() == pytest.approx(losses["plain"]["loss"].item() + 3)
    assert list(losses["no lm"]) == ["loss", "itc", "itm", "norm"]


def test_the_first_matching_pattern_sets_the_rate() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1), "b": torch.nn.Linear(1, 1)})
    groups = FineTune(rates=(("a.bias", 0.5), ("a.*", 0.1))).groups(model)
    assert {g.lr_scale: len(g.params) for g in groups} == {0.1: 1, 0.5: 1, 1.0: 2}


@pytest.mark.parametrize("name", ["pretrain", "retrieval"])
def test_a_queue_without_room_is_refused_before_training(name: str, tmp_path: Path) -> None:
    source = str(write_photos(tmp_path / "photos"))
    task = build_task(name, {"data": source, "start": {"init": "random-tiny"}, "queue_size": 0})
    with pytest.raises(ConfigError, match="queue_size 0: must be an integer of at least 1"):
        task.setup.build_model()
