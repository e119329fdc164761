"""Retrieval as a task: the original's losses, positives of one image, learning by heart, batches without negatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.testing import assert_close

from blip.data.loader import SampleRef
from blip.eval.retrieval import RetrievalEval
from blip.model.momentum import MomentumModel
from blip.tasks import build_task
from blip.tasks.base import Step
from blip.tasks.contrastive import Negatives
from blip.tasks.images import Augment
from blip.tasks.initialize import Start
from blip.tasks.retrieval import RetrievalTask
from blip.train import fit
from tests.oracle_files import tensors, values
from tests.tasks.oracle_steps import batch, momentum_model
from tests.train.photos import COLOURS, loop, write_photos


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captions of each photo, a row each, as the original's training lists have them."""
    folder = write_photos(tmp_path_factory.mktemp("retrieval"))
    rows = [
        {"image": f"{name}.png", "caption": f"{text} {name} wall", "image_id": name}
        for text in ("a", "one large")
        for name in COLOURS
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    return folder / "train.json"


def task(data: Path, **options: Any) -> RetrievalTask:
    given = {
        "start": Start(init="random-tiny", dropout=0.0),
        "queue_size": 10,
        "augment": Augment(min_scale=0.9, rand_augment=False),
        "evaluation": RetrievalEval(k=4),
        **options,
    }
    return RetrievalTask(data=str(data), **given)


def test_the_losses_equal_the_original() -> None:
    recorded, info = tensors("retrieval_train"), values("retrieval_train")["steps"][0]
    ids, mask, images = batch("retrieval", info)
    given = {"pixel_values": images, "input_ids": ids, "attention_mask": mask, "image_ids": recorded["step0.idx"]}
    model = momentum_model("retrieval")
    model.before_step()
    torch.manual_seed(info["seed"])
    negatives = Negatives(source="online", floor=0.0, all_ranks=False)
    losses = RetrievalTask(data="unused", negatives=negatives).loss(model, given, Step(0, 0, 10))
    assert_close(torch.stack([losses["itc"], losses["itm"]]), recorded["step0.losses"], atol=0, rtol=1e-5)


def test_rows_of_one_photo_have_one_number(captions: Path) -> None:
    chosen = task(captions)
    data = chosen.dataset()
    collated = chosen.collate([data[SampleRef(i, 0, i)] for i in (0, 1, 8)])
    assert collated["image_ids"].tolist() == [0, 1, 0]


def test_a_run_learns_to_find(captions: Path, tmp_path: Path) -> None:
    chosen = task(captions, val=str(captions))
    schedule = {"steps": 250, "eval_every": 250, "lr": 3e-3, "warmup_steps": 10, "schedule": "cosine_step"}
    fitted = fit(chosen, loop(batch_size=8, **schedule), tmp_path)
    assert fitted.metrics["txt_r1"] > 80 and fitted.metrics["img_r1"] > 80


@pytest.mark.parametrize("rows", [(0,), (0, 8)], ids=["one photo", "one photo twice"])
def test_a_batch_of_one_photo_has_no_negatives(captions: Path, rows: tuple[int, ...]) -> None:
    chosen = task(captions)
    model, data = cast(MomentumModel, chosen.setup.build_model().train()), chosen.dataset()
    losses = chosen.loss(model, chosen.collate([data[SampleRef(i, 0, i)] for i in rows]), Step(0, 0, 1))
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"]) and losses["itm"] > 0  # its positives alone


def test_an_epoch_may_end_with_a_queue_that_no_batch_divides(captions: Path, tmp_path: Path) -> None:
    fitted = fit(task(captions, queue_size=7), loop(steps=5, batch_size=3), tmp_path)
    assert fitted.reason == "finished"


def test_matching_alone_is_a_task_of_its_own(captions: Path) -> None:
    chosen = cast(RetrievalTask, build_task("itm", {"data": str(captions), "start": {"init": "random-tiny"}}))
    model, data = cast(MomentumModel, chosen.setup.build_model().train()), chosen.dataset()
    losses = chosen.loss(model, chosen.collate([data[SampleRef(i, 0, i)] for i in range(4)]), Step(0, 0, 1))
    assert chosen.name == "itm" and losses["loss"] == losses["itm"] != losses["itc"]
