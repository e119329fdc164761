"""The extra losses that made `tiny`: synthetic features, distillation, CIDEr; and the configs of the experiments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from blip.data.loader import SampleRef
from blip.data.sources import open_source
from blip.model.vision import VisionTransformer
from blip.tasks import build_task
from blip.tasks.base import Step
from blip.tasks.import_path import build_from_path
from blip.tasks.initialize import FineTune, Start
from blip.tasks.pretrain import PretrainTask
from blip.train import TrainConfig, fit
from blip.train.config_sources import merge_config
from blip_lite.config import VisionConfig, from_values
from blip_lite.errors import BadRecord, ConfigError
from blip_lite.tokenizer import clean_caption
from experiments.tiny.distillation import read_teacher_vectors, similarity_loss
from experiments.tiny.synthetic_features import class_prototypes, read_synthetic_data, synthesize
from tests.tasks.test_pretrain import stemmed  # noqa: F401 (a fixture)
from tests.train.photos import pretrain_task, write_photos
from tests.train.processes import spawn
from tests.train.test_processes import data as photos  # noqa: F401 (a fixture)
from tests.train.test_processes import logged, three_steps

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CIDER: dict[str, Any] = {"class": "experiments.tiny.losses:CiderLoss", "reward": {"samples": 3}}


def synthetic(inputs: Path, per_image: float) -> dict[str, Any]:
    folder = str(inputs / "synthetic")
    return {"class": "experiments.tiny.losses:SyntheticCaptions", "folder": folder, "per_image": per_image}


def teacher(folder: Path, weight: float) -> dict[str, Any]:
    return {"class": "experiments.tiny.losses:Distillation", "folder": str(folder), "weight": weight}


@pytest.fixture(scope="module")
def inputs(stemmed: Path) -> Path:  # noqa: F811
    """A very small model in `init`, and captions without images in `synthetic`."""
    (stemmed / "synthetic").mkdir()
    rows = [{"caption": "a cup on a table", "classes": [5, 9]}, {"caption": "a cat", "classes": [7]}]
    (stemmed / "synthetic/captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_file({"prototypes": torch.rand(1001, 1280)}, stemmed / "synthetic/prototypes.safetensors")
    return stemmed


def test_all_losses_train_the_parameters_that_are_not_frozen(inputs: Path, tmp_path: Path) -> None:
    task = PretrainTask(
        data=str(write_photos(tmp_path / "photos")),
        start=Start(init=str(inputs / "init")),
        queue_size=6,
        extra_losses={"cider": CIDER, "synthetic": synthetic(inputs, 0.5)},
        same_image_ids=True,
        texts_per_image=2,
        tune=FineTune(freeze=("vision.stem.conv", "vision.stem.blocks.0"), rates=(("vision.stem.*", 0.1),)),
    )
    model, images = task.setup.build_model().train(), task.dataset()
    batch = task.collate([images[SampleRef(i, 0, i)] for i in range(4)])
    assert batch["lm_ids"].shape[0] == 8 and batch["input_ids"].shape[0] == 4
    losses = task.loss(model, batch, Step(0, 0, 1))
    assert set(losses) == {"loss", "itc", "itm", "lm", "cider", "synthetic"}
    parts = [value for name, value in losses.items() if name != "loss"]
    assert losses["loss"].item() == pytest.approx(sum(float(p.detach()) for p in parts), rel=1e-5)
    losses["loss"].backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert grads["model.vision.stem.conv.weight"] is None
    assert grads["model.vision.stem.head.weight"] is not None
    assert all(grad is None for name, grad in grads.items() if name.startswith("momentum_encoders."))
    scales = sorted(group.lr_scale for group in task.setup.param_groups(model))
    assert scales == [0.1, 1.0]


def test_changed_captions_train_the_matching_head(inputs: Path, tmp_path: Path) -> None:
    task = PretrainTask(
        data=str(write_photos(tmp_path / "photos")),
        start=Start(init=str(inputs / "init")),
        queue_size=6,
        extra_losses={"changed": {"class": "experiments.tiny.losses:ChangedCaptions", "weight": 1.0}},
    )
    model, images = task.setup.build_model().train(), task.dataset()
    batch = task.collate([images[SampleRef(i, 0, i)] for i in range(4)])
    task.loss(model, batch, Step(0, 0, 1))["changed"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "model.itm_head.weight" in trained and "model.text_proj.weight" not in trained
    assert any("encoder.blocks" in name for name in trained), trained


def test_distillation_reaches_the_text_encoder_only(inputs: Path, tmp_path: Path) -> None:
    source = str(write_photos(tmp_path / "photos"))
    plain = PretrainTask(data=source, start=Start(init=str(inputs / "init")), queue_size=6, lm_weight=0.0)
    texts = sorted(
        {clean_caption(text) for i in range(len(open_source(source))) for text in open_source(source)[i].texts}
    )
    (tmp_path / "captions.txt").write_text("".join(text + "\n" for text in texts))
    np.save(tmp_path / "vectors.npy", torch.nn.functional.normalize(torch.randn(len(texts), 8), dim=1).numpy())
    task = replace(
        plain, extra_losses={"teacher": teacher(tmp_path, 2.0)}, tune=FineTune(freeze=("vision.", "decoder."))
    )
    model = task.setup.build_model().train()
    batch = task.collate([task.dataset()[SampleRef(i, 0, i)] for i in range(4)])
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


def test_synthetic_features_are_shuffled_cells_with_a_patch_per_class() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.rand(2, 1280, 7, 7)
    prototypes = torch.zeros(1001, 1280)
    prototypes[7] = 100.0
    grids = synthesize(grid, [(7,), ()], prototypes, generator)
    assert grids.shape == (2, 1280, 7, 7)
    assert (grids[0] >= 100).all(dim=0).sum() >= 4 and grids[1].max() <= 0.5
    assert torch.equal(grids, synthesize(grid, [(7,), ()], prototypes, torch.Generator().manual_seed(0)))


def test_the_classifier_assigns_prototypes_to_their_classes() -> None:
    config = VisionConfig(
        image_size=64, patch_size=32, width=32, num_layers=1, num_heads=2, stem="edgetpu", class_tokens=3
    )
    torch.manual_seed(0)
    stem = VisionTransformer(config).stem
    assert stem is not None
    prototypes = class_prototypes(stem, torch.rand(1280))
    assert (prototypes >= 0).all()
    assigned = stem.classifier(prototypes).argmax(dim=1)
    assert (assigned == torch.arange(1001)).float().mean() > 0.95


def test_a_broken_line_of_captions_is_named(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"caption": "a", "classes": [1]}\n{"caption": 1}\n')
    with pytest.raises(BadRecord, match=r"captions\.jsonl:2: must be"):
        read_synthetic_data(tmp_path)


def write_teacher(folder: Path, lines: list[str], vectors: torch.Tensor) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "captions.txt").write_text("".join(line + "\n" for line in lines))
    np.save(folder / "vectors.npy", vectors.half().numpy())


def test_teacher_vectors_are_looked_up_by_caption(tmp_path: Path) -> None:
    write_teacher(tmp_path, ["a dog", "a cat", "men"], torch.eye(3))
    assert read_teacher_vectors(tmp_path).lookup(["men", "a dog"]).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_captions_without_a_vector_are_refused(tmp_path: Path) -> None:
    write_teacher(tmp_path, ["a dog"], torch.eye(3))
    with pytest.raises(BadRecord, match="1 captions and 3 vectors"):
        read_teacher_vectors(tmp_path)


def test_the_loss_is_zero_for_equal_similarities_and_falls_towards_the_teacher() -> None:
    torch.manual_seed(0)
    taught = F.normalize(torch.randn(6, 8), dim=1)
    turned = taught @ torch.linalg.qr(torch.randn(8, 8)).Q  # similarity does not depend on the axes
    assert similarity_loss(turned, taught, 0.1).item() == pytest.approx(0, abs=1e-4)
    features = torch.randn(6, 8, requires_grad=True)
    first = similarity_loss(F.normalize(features, dim=1), taught, 0.1)
    (gradient,) = torch.autograd.grad(first, features)
    second = similarity_loss(F.normalize(features - 0.1 * gradient, dim=1), taught, 0.1)
    assert 0 < second.item() < first.item()


def test_a_text_is_not_compared_with_itself() -> None:
    features, taught = torch.eye(2), F.normalize(torch.ones(2, 2), dim=1)
    assert similarity_loss(features, taught, 0.1).item() == pytest.approx(
        0, abs=1e-6
    )  # the one other text has probability 1


def all_losses(folder: Path, photos: Path, inputs: Path) -> None:  # noqa: F811
    """Train three steps with all losses, with fewer synthetic captions than processes."""
    task = pretrain_task(
        photos,
        start=Start(init=str(inputs / "init"), dropout=0.0),
        whole_batch=True,
        extra_losses={
            "teacher": teacher(inputs / "teacher", 1.0),
            "cider": {**CIDER, "reward": {"samples": 2}},
            "synthetic": synthetic(inputs, 0.13),
        },
    )
    fit(task, three_steps(), folder, quiet=True)


@pytest.mark.slow
def test_extra_losses_are_computed_over_the_whole_batch(photos: Path, tmp_path: Path, inputs: Path) -> None:  # noqa: F811
    texts = sorted({clean_caption(text) for sample in open_source(str(photos)).samples for text in sample.texts})
    vectors = np.random.RandomState(0).randn(len(texts), 8)
    normalized = torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    write_teacher(inputs / "teacher", texts, normalized)
    spawn(2, all_losses, tmp_path / "two", photos, inputs)
    all_losses(tmp_path / "one", photos, inputs)
    results, expected = logged(tmp_path / "two"), logged(tmp_path / "one")
    names = {"loss", "loss_itc", "loss_itm", "loss_lm", "loss_teacher", "loss_cider", "loss_synthetic", "grad_norm"}
    assert set(expected[0]) == names
    for ours, theirs in zip(results, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_the_cider_loss_needs_fixed_captions(tmp_path: Path) -> None:
    task = pretrain_task(write_photos(tmp_path / "photos"), web="x", extra_losses={"cider": CIDER})
    with pytest.raises(ConfigError, match="web: not with the CIDEr loss"):
        task.dataset()


@pytest.mark.parametrize(
    "path", sorted(EXPERIMENTS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_config_builds_a_task(path: Path) -> None:
    values = merge_config(str(path), {"data": "photos"})
    config = from_values(TrainConfig, values.pop("train"))
    assert config.batch_size and (config.epochs or config.steps)
    task = build_task(values.pop("task"), values)
    for name, options in getattr(task, "extra_losses", {}).items():
        assert build_from_path(options, name)
