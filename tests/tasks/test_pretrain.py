"""Pre-training as a task: all its losses, imagined photos, frozen parts, rates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from blip.checkpoint.files import write_folder
from blip.data.loader import SampleRef
from blip.data.sources import open_source
from blip.model.blip import BlipModel
from blip.model.momentum import MomentumModel
from blip.tasks.base import Step
from blip.tasks.imagined import class_prototypes, imagine, read_imagined
from blip.tasks.initialize import FineTune, Start
from blip.tasks.pretrain import PretrainTask
from blip.tasks.reward import Reward
from blip_lite.config import BlipConfig, TextConfig, VisionConfig
from blip_lite.errors import BadRecord, ConfigError
from blip_lite.tokenizer import clean_caption
from tests.train.photos import write_photos


@pytest.fixture(scope="module")
def stemmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small model over the convolutional stem, with random weights, and captions to imagine."""
    folder = tmp_path_factory.mktemp("stemmed")
    vision = VisionConfig(
        image_size=64, patch_size=32, width=32, num_layers=1, num_heads=2, mlp_width=64, stem="edgetpu", class_tokens=3
    )
    text = TextConfig(width=32, num_layers=2, num_heads=2, mlp_width=64, max_length=64, dropout=0.0)
    torch.manual_seed(0)
    config = BlipConfig(family="pretrain", vision=vision, text=text, proj_width=16, prompt="")
    write_folder(folder / "init", BlipModel(config).state_dict(), config, vocab=None)
    (folder / "imagined").mkdir()
    rows = [{"caption": "a cup on a table", "classes": [5, 9]}, {"caption": "a cat", "classes": [7]}]
    (folder / "imagined/captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_file({"prototypes": torch.rand(1001, 1280)}, folder / "imagined/prototypes.safetensors")
    return folder


def test_every_loss_is_there_and_trains_what_is_not_frozen(stemmed: Path, tmp_path: Path) -> None:
    task = PretrainTask(
        data=str(write_photos(tmp_path / "photos")),
        start=Start(init=str(stemmed / "init")),
        queue_size=6,
        imagined=str(stemmed / "imagined"),
        imagined_per_image=0.5,
        reward=Reward(samples=3),
        same_image_ids=True,
        texts_per_image=2,
        tune=FineTune(freeze=("vision.stem.conv", "vision.stem.blocks.0"), rates=(("vision.stem.*", 0.1),)),
    )
    model, data = task.build_model().train(), task.dataset("train")
    batch = task.collate([data[SampleRef(i, 0, i)] for i in range(4)])
    assert batch["lm_ids"].shape[0] == 8 and batch["input_ids"].shape[0] == 4
    losses = task.loss(model, batch, Step(0, 0, 1))
    assert set(losses) == {"loss", "itc", "itm", "lm", "critical", "imagined"}
    parts = [value for name, value in losses.items() if name != "loss"]
    assert losses["loss"].item() == pytest.approx(sum(float(p.detach()) for p in parts), rel=1e-5)
    losses["loss"].backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert grads["model.vision.stem.conv.weight"] is None
    assert grads["model.vision.stem.head.weight"] is not None
    assert all(grad is None for name, grad in grads.items() if name.startswith("momentum_encoders."))
    scales = sorted(group.lr_scale for group in task.param_groups(model))
    assert scales == [0.1, 1.0]


def test_what_a_frozen_stem_has_read_takes_the_place_of_pixels(stemmed: Path, tmp_path: Path) -> None:
    source = str(write_photos(tmp_path / "photos"))
    plain = PretrainTask(data=source, start=Start(init=str(stemmed / "init")), queue_size=6)
    model = cast(MomentumModel, plain.build_model().eval())
    data, vision = plain.dataset("train"), model.model.vision
    with torch.no_grad():
        pixels = torch.stack([data[SampleRef(i, 0, i)].pixel_values for i in range(len(data))])
        grids = vision.read_pixels(pixels)[0]
        assert torch.equal(vision(grids), vision(pixels))
    np.save(tmp_path / "views.npy", grids[:, None].half().numpy())
    names = [Path(record.key).stem for record in open_source(source).samples]
    (tmp_path / "views.json").write_text(json.dumps(names))
    task = replace(plain, views=str(tmp_path / "views.npy"), tune=FineTune(freeze=("vision.stem",)))
    batch = task.collate([task.dataset("train")[SampleRef(i, 0, i)] for i in range(4)])
    assert_close(batch["pixel_values"], grids[:4].half().float())
    losses = task.loss(task.build_model().train(), batch, Step(0, 0, 1))
    losses["loss"].backward()
    (tmp_path / "views.json").write_text(json.dumps(names[:2]))
    with pytest.raises(ConfigError, match=f"views: none of photo '{names[2]}'"):
        task.dataset("train")[SampleRef(2, 0, 0)]


def test_a_teacher_speaks_of_the_captions_and_the_decoder_may_rest(stemmed: Path, tmp_path: Path) -> None:
    source = str(write_photos(tmp_path / "photos"))
    plain = PretrainTask(data=source, start=Start(init=str(stemmed / "init")), queue_size=6, lm=False)
    texts = sorted(
        {clean_caption(text) for i in range(len(open_source(source))) for text in open_source(source)[i].texts}
    )
    (tmp_path / "captions.txt").write_text("".join(text + "\n" for text in texts))
    np.save(tmp_path / "vectors.npy", torch.nn.functional.normalize(torch.randn(len(texts), 8), dim=1).numpy())
    task = replace(plain, teacher=str(tmp_path), teacher_weight=2.0, tune=FineTune(freeze=("vision.", "decoder.")))
    model = task.build_model().train()
    batch = task.collate([task.dataset("train")[SampleRef(i, 0, i)] for i in range(4)])
    losses = task.loss(model, batch, Step(0, 0, 1))
    assert set(losses) == {"loss", "itc", "itm", "teacher"}
    losses["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.split(".")[1] for name in trained} == {
        "encoder",
        "vision_proj",
        "text_proj",
        "itm_head",
        "temperature",
    }


def test_imagined_photos_are_made_of_cells_and_patches_of_the_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.rand(2, 1280, 7, 7)
    prototypes = torch.zeros(1001, 1280)
    prototypes[7] = 100.0
    found = imagine(grid, [(7,), ()], prototypes, generator)
    assert found.shape == (2, 1280, 7, 7)
    assert (found[0] >= 100).all(dim=0).sum() >= 4 and found[1].max() <= 0.5
    assert torch.equal(found, imagine(grid, [(7,), ()], prototypes, torch.Generator().manual_seed(0)))


def test_prototypes_are_what_the_classifier_calls_so() -> None:
    config = VisionConfig(
        image_size=64, patch_size=32, width=32, num_layers=1, num_heads=2, stem="edgetpu", class_tokens=3
    )
    from blip.model.vision import VisionTransformer

    torch.manual_seed(0)
    stem = VisionTransformer(config).stem
    assert stem is not None
    prototypes = class_prototypes(stem, torch.rand(1280))
    assert (prototypes >= 0).all()
    called = stem.classifier(prototypes).argmax(dim=1)
    assert (called == torch.arange(1001)).float().mean() > 0.95


def test_a_broken_line_of_captions_is_named(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"caption": "a", "classes": [1]}\n{"caption": 1}\n')
    with pytest.raises(BadRecord, match=r"captions\.jsonl:2: must be"):
        read_imagined(tmp_path)


def test_the_first_pattern_that_fits_gives_the_rate() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1), "b": torch.nn.Linear(1, 1)})
    groups = FineTune(rates=(("a.bias", 0.5), ("a.*", 0.1))).groups(model)
    assert {g.lr_scale: len(g.params) for g in groups} == {0.1: 1, 0.5: 1, 1.0: 2}
