"""VQA as a task: the original's loss, answers by weight, questions of every form, learning by heart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from blip.data.loader import SampleRef
from blip.eval.vqa import VqaEval
from blip.tasks.base import Step
from blip.tasks.images import Augment
from blip.tasks.initialize import Start
from blip.tasks.vqa import VqaTask
from blip.train import fit
from blip_lite.errors import BadRecord, UsageError
from tests.oracle_files import oracle_model, tensors
from tests.train.photos import COLOURS, loop, write_photos

SAID = ["yes"] * 7 + ["no"] * 3


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question of ten people and one of Visual Genome's kind about each of eight photos."""
    folder = write_photos(tmp_path_factory.mktemp("vqa"))
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(COLOURS):
        rows.append({"image": f"{name}.png", "question_id": 2 * number, "question": "Is it a wall?", "answer": SAID})
        rows.append(
            {"image": f"{name}.png", "question_id": 2 * number + 1, "question": "Which colour?", "answer": name}
        )
    (folder / "vqa.json").write_text(json.dumps(rows))
    return folder / "vqa.json"


def task(data: Path, **options: Any) -> VqaTask:
    start = Start(init="random-tiny-vqa", dropout=0.0)
    return VqaTask(data=str(data), start=start, augment=Augment(min_scale=0.9, rand_augment=False), **options)


@pytest.mark.parametrize("questions_per_image", [1, 2])
def test_an_unreadable_image_is_reported_with_its_row(
    questions: Path, tmp_path: Path, questions_per_image: int
) -> None:
    rows = json.loads(questions.read_text())[:6]
    for row in rows:
        row["image"] = str(questions.parent / row["image"])
    rows[4]["image"] = rows[5]["image"] = "broken.png"
    (tmp_path / "vqa.json").write_text(json.dumps(rows))
    (tmp_path / "broken.png").write_bytes(b"no image")
    data = task(tmp_path / "vqa.json", questions_per_image=questions_per_image).dataset()
    with pytest.raises(BadRecord, match=r"vqa\.json:[56]: image .*broken\.png: "):
        data[SampleRef(index=4 // questions_per_image, epoch=0, seed=0)]


@pytest.mark.parametrize("scope", ["valid", "all"])
def test_the_loss_equals_the_original(scope: Any) -> None:
    recorded, model = tensors("vqa"), oracle_model("vqa").train()
    batch = {
        "pixel_values": tensors("inputs")["images"][:4],
        "input_ids": recorded["train.question_ids"],
        "attention_mask": recorded["train.question_mask"],
        "answer_ids": recorded["train.answer_ids"],
        "answer_mask": recorded["train.answer_mask"],
        "weights": recorded["train.weights"],
        "counts": recorded["train.n"],
    }
    loss = VqaTask(data="unused", smoothing_scope=scope).loss(model, batch, Step(0, 0, 1))["loss"]
    if scope == "valid":
        assert_close(loss, recorded["train.loss"], atol=0, rtol=1e-5)
    else:
        assert loss > recorded["train.loss"]  # padding pays too


def test_a_batch_has_all_answers_with_their_shares(questions: Path) -> None:
    chosen = task(questions)
    data = chosen.dataset()
    batch = chosen.collate([data[SampleRef(i, 0, i)] for i in (0, 1)])
    assert batch["counts"].tolist() == [2, 1]
    assert_close(batch["weights"], torch.tensor([0.7, 0.3, 0.2]))
    assert batch["answer_ids"].shape[0] == 3 and batch["pixel_values"].shape[0] == 2


def test_an_image_with_many_questions_has_several_samples(questions: Path) -> None:
    path = questions.with_name("many.jsonl")
    numbers = {"red": 9, "blue": 1}  # questions of each photo
    rows = [
        {"image": f"{name}.png", "question": f"{name} number {i}?", "answer": "yes"}
        for name, count in numbers.items()
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = task(path, questions_per_image=3).dataset()
    drawn = [[q.question for q in data[SampleRef(i, 0, i)][1]] for i in range(len(data))]
    assert [len(texts) for texts in drawn] == [3, 3, 3, 3]
    once = sorted(text for texts in drawn[:3] for text in texts)
    assert once == [f"red number {i}?" for i in range(9)]
    assert drawn[3] == ["blue number 0?"] * 3


def test_a_run_learns_its_answers_by_heart(questions: Path, tmp_path: Path) -> None:
    rows = json.loads(questions.read_text())
    sure = questions.with_name("sure.json")
    sure.write_text(
        json.dumps([row | {"answer": [row["answer"]] * 4} for row in rows if isinstance(row["answer"], str)])
    )
    chosen = task(sure, val=str(sure), evaluation=VqaEval(mode="rank", answers=("yes", "no", *COLOURS)))
    fitted = fit(chosen, loop(steps=200, batch_size=8, lr=3e-3, eval_every=200, schedule="constant"), tmp_path)
    assert fitted.metrics["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "red.png", "question": " ", "answer": "red"}, "no text in column 'question'"),
        ({"image": "red.png", "question": "what?"}, "no answer in column"),
        ({"image": "red.png", "question": "what?", "answer": [1]}, "'answer' must be a text or a list of texts"),
    ],
)
def test_a_broken_row_stops_with_its_place(questions: Path, row: dict[str, Any], message: str) -> None:
    path = questions.with_name("broken.jsonl")
    path.write_text(json.dumps({"image": "red.png", "question": "what?", "answer": "red"}) + "\n" + json.dumps(row))
    with pytest.raises(BadRecord, match=f"broken.jsonl:2: {message}"):
        task(path).dataset()


def test_a_closed_list_is_needed_to_rank() -> None:
    with pytest.raises(UsageError, match="needs a list of answers"):
        VqaEval(mode="rank")
