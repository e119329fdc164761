"""NLVR2 as a task: the original's loss, swapped pairs, learning by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from blip.data.loader import SampleRef
from blip.tasks.base import Step
from blip.tasks.images import Augment
from blip.tasks.initialize import FineTune, Start
from blip.tasks.nlvr import NlvrTask
from blip.train import fit
from blip_lite.errors import BadRecord
from tests.oracle_files import oracle_model, tensors
from tests.train.photos import COLOURS, loop, write_photos


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The left photo of each pair is red or blue, and the sentence claims red."""
    folder = write_photos(tmp_path_factory.mktemp("nlvr"))
    rows = [
        {"images": [f"{left}.png", f"{right}.png"], "sentence": "The left image is red.", "label": str(left == "red")}
        for left in ("red", "blue")
        for right in COLOURS
        if right not in ("red", "blue")
    ]
    (folder / "nlvr.json").write_text(json.dumps(rows))
    return folder / "nlvr.json"


def task(data: Path, **options: Any) -> NlvrTask:
    start = Start(init="random-tiny", dropout=0.0)
    return NlvrTask(data=str(data), start=start, augment=Augment(min_scale=0.9, rand_augment=False), **options)


def test_the_loss_equals_the_original() -> None:
    recorded, images = tensors("nlvr"), tensors("inputs")["images"]
    batch = {
        "pixel_values": images[:6].unflatten(0, (2, 3)).transpose(0, 1),
        "input_ids": recorded["input_ids"],
        "attention_mask": recorded["attention_mask"],
        "labels": recorded["targets"],
    }
    loss = NlvrTask(data="unused").loss(oracle_model("nlvr").train(), batch, Step(0, 0, 1))["loss"]
    assert_close(loss, recorded["loss"], atol=0, rtol=1e-5)


def test_half_of_the_pairs_are_swapped_with_their_words(pairs: Path) -> None:
    data = task(pairs).dataset()
    sentences = [data[SampleRef(0, 0, seed)].sentence for seed in range(40)]
    assert set(sentences) == {"the left image is red", "the right image is red"}
    assert 10 < sentences.count("the left image is red") < 30


def test_a_run_learns_left_and_right(pairs: Path, tmp_path: Path) -> None:
    chosen = task(pairs, val=str(pairs), tune=FineTune(no_decay=True))
    fitted = fit(chosen, loop(steps=200, batch_size=12, lr=3e-3, eval_every=200, schedule="constant"), tmp_path)
    assert fitted.metrics["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"images": ["red.png"], "sentence": "a", "label": "True"}, "1 images; a pair needs two"),
        ({"images": ["red.png", "blue.png"], "label": "True"}, "no text in column 'sentence'"),
        ({"images": ["red.png", "blue.png"], "sentence": "a", "label": "perhaps"}, "label 'perhaps'; must be True"),
    ],
)
def test_a_broken_row_stops_with_its_place(pairs: Path, row: dict[str, Any], message: str) -> None:
    path = pairs.with_name("broken.jsonl")
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(BadRecord, match=f"broken.jsonl:1: {message}"):
        task(path).dataset()
