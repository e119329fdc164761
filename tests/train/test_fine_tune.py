"""Fine-tuning on a user's photos: held-out photos, the start as the one to beat, warnings, files that are kept."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from blip.tasks import build_task
from blip.tasks.presets import PRESETS
from blip.tasks.retrieval import RetrievalTask
from blip.train import fit
from blip.train.averages import AveragedWeights
from blip.train.checkpoints import RunFolder
from blip.train.config_sources import merge_config
from blip.train.fine_tune import LOOP, fine_tune_defaults, model_size
from blip.train.pace import Pace
from blip_lite.errors import EnvironmentProblem, UsageError
from tests.train.photos import COLOURS, caption_task, loop, write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen photos, two of each colour, of which three are held out."""
    folder = write_photos(tmp_path_factory.mktemp("photos"))
    rng = np.random.RandomState(1)
    for name, colour in COLOURS.items():
        pixels = (np.array(colour) + rng.randint(-5, 6, (40, 40, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}2.png")
        (folder / f"{name}2.txt").write_text(f"a {name} wall\nthe wall is {name}\n")
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_held_out_photos_are_reported_and_the_start_is_evaluated_first(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = caption_task(photos, val="auto")
    fitted = fit(task, loop(steps=30, lr=3e-3, eval_every=10, eval_start=True, keep_state=False), tmp_path)
    errors = capsys.readouterr().err
    assert "held out 3 of 16 photos for evaluation; --val none trains on all" in errors
    assert len(task.dataset()) == 13
    scored = [row for row in rows(tmp_path) if "val_loss" in row]
    assert [row["step"] for row in scored] == [0, 10, 20, 30] and all("drift" in row for row in scored)
    assert scored[0]["drift"] == 0.0
    best = min(scored, key=lambda row: row["val_loss"])["step"]  # few photos: the loss selects
    assert fitted.best_step == best > 0 and f"best step {best}: loss" in errors
    assert "  [true: a " in errors  # the true captions beside the samples


def test_the_start_is_kept_if_no_step_is_better(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = caption_task(photos, val="auto")
    still = loop(steps=50, eval_every=2, patience=2, eval_start=True, lr=0.0, weight_decay=0.0, keep_state=False)
    fitted = fit(task, still, tmp_path)
    assert (fitted.reason, fitted.step, fitted.best_step) == ("no improvement", 4, 0)
    assert "warning: no step was better than the start" in capsys.readouterr().err
    start = caption_task(photos).setup.build_model().state_dict()
    for name, value in load_file(tmp_path / "final" / "model.safetensors").items():
        assert_close(value, start[name], msg=name)


def test_a_model_that_changes_much_on_other_photos_is_warned_about(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(caption_task(photos, val="auto"), loop(steps=40, lr=1e-2, eval_every=40, eval_start=True), tmp_path)
    drift = rows(tmp_path)[-1]["drift"]
    assert drift > 0.3
    assert f"warning: the model has changed a lot on photos unlike yours (drift {drift:.2f}" in capsys.readouterr().err


@pytest.mark.parametrize("val", [None, "auto"])
def test_a_finished_run_keeps_its_model_only_and_is_not_repeated(
    photos: Path, tmp_path: Path, val: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    task, config = caption_task(photos, val=val), loop(steps=4, keep_state=False, eval_start=True)
    fitted = fit(task, config, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.yaml", "final", "finished.json", "tb", "train.jsonl"}
    assert " MB (optimizer state dropped; --keep-state keeps it)" in capsys.readouterr().err
    before = (tmp_path / "final" / "model.safetensors").stat().st_mtime_ns
    assert fit(task, config, tmp_path) == fitted
    assert (tmp_path / "final" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="contains a finished run, whose training state was not kept"):
        fit(task, loop(steps=5, keep_state=False, eval_start=True), tmp_path)


def test_an_interrupted_run_with_held_out_photos_ends_in_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    options = {"steps": 6, "eval_every": 2, "eval_start": True, "start_share": 0.5, "ema": 0.9}
    fit(caption_task(photos, val="auto"), loop(**options), tmp_path / "whole")
    for _ in range(6):
        fit(caption_task(photos, val="auto"), loop(**options, max_minutes=0.0), tmp_path / "parts")
    fit(caption_task(photos, val="auto"), loop(**options), tmp_path / "parts")
    models = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert models[0] == models[1]
    timeless = [
        [{k: v for k, v in row.items() if k.startswith(("val", "drift", "step"))} for row in rows(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert timeless[0] == timeless[1]


def test_weights_are_averaged_with_the_start() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = AveragedWeights(model, 0.0, start_share=0.25)
    nn.init.constant_(model.weight, 5.0)
    average.update(1)
    with average.applied():
        assert model.weight.item() == 4.0
    assert model.weight.item() == 5.0


def test_the_queue_is_as_long_as_the_data_unless_given(photos: Path) -> None:
    task = RetrievalTask(data=str(photos), start=caption_task(photos).start)
    assert task.setup.build_model().queue.image.shape[1] == 16  # type: ignore[union-attr, index]
    preset = PRESETS["retrieval_coco"].options
    assert preset["queue_size"] == 57600


@pytest.mark.parametrize("task", ["retrieval", "pretrain"])
def test_validation_losses_are_repeatable(photos: Path, task: str) -> None:
    built = build_task(task, {"data": str(photos), "start": {"init": "random-tiny"}, "queue_size": 8})
    model = built.setup.initialized.model.eval()
    data = built.dataset(built.setup.training_source)
    from blip.data.loader import SampleRef

    batch = built.collate([data[SampleRef(i, 0, i)] for i in range(8)])
    with torch.no_grad():
        losses = [float(built.validation_loss(model, batch)) for _ in range(2)]
    assert losses[0] == losses[1] > 0


def test_defaults_are_for_runs_without_a_config_and_depend_on_the_size(tmp_path: Path) -> None:
    values = {"task": "caption", "data": "x"}
    assert fine_tune_defaults(values, "tiny") == "tiny"
    assert values["val"] == "auto" and values["train"]["lr"] == 5e-5 and LOOP.items() <= values["train"].items()
    assert values["tune"]["freeze"] == ["vision.stem"]
    for init, rate in (("caption-base", 1e-5), ("caption-large", 2e-6), ("random-tiny", 2e-4)):
        values = {"task": "caption", "start": {"init": init}}
        assert fine_tune_defaults(values, "tiny") is None
        assert values["train"]["lr"] == rate
    assert "start_share" not in values["train"]  # half of random weights is of no use
    declined = {"task": "caption", "val": "none", "train": {"lr": 1.0}}
    fine_tune_defaults(declined, "tiny")
    assert declined["train"]["lr"] == 1.0 and "patience" not in declined["train"]
    (tmp_path / "config.json").write_text('{"vision": {"width": 384}}')
    assert (model_size(str(tmp_path)), model_size("tiny"), model_size("vqa-base")) == ("tiny", "tiny", "base")
    preset = merge_config("preset:caption_coco", {})
    assert (preset["train"]["lr"], preset["train"]["schedule"], "start_share" in preset["train"]) == (
        1e-5,
        "cosine_epoch",
        False,
    )


def test_two_runs_into_one_folder_are_refused(photos: Path, tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Waiting(type(caption_task(photos))):  # type: ignore[misc]
        def dataset(self, source: Any = None) -> Any:
            started.set()
            assert go_on.wait(60)
            return super().dataset(source)

    first = threading.Thread(
        target=fit, args=(Waiting(data=str(photos), start=caption_task(photos).start), loop(steps=1), tmp_path / "run")
    )
    first.start()
    assert started.wait(60)
    try:
        with pytest.raises(UsageError, match="another run is writing to it"):
            fit(caption_task(photos), loop(steps=1), tmp_path / "run")
    finally:
        go_on.set()
        first.join()
    assert RunFolder(tmp_path / "run").steps() == [1]


def test_a_full_disk_is_one_error_and_the_run_resumes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def full(*args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*args, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(EnvironmentProblem, match="no space left"):
        fit(caption_task(photos), loop(save_every=2), tmp_path)
    assert RunFolder(tmp_path).steps() == [2]
    assert fit(caption_task(photos), loop(save_every=2), tmp_path).step == 6


def test_remaining_time_counts_evaluations_and_not_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("blip.train.pace.time.monotonic", lambda: now[0])
    pace = Pace(pause=8.0)
    for seconds in (10.0, 1.0, 2.0):
        now[0] += seconds
        pace.step()
    assert pace.remaining(steps=4, pauses=2) == 4 * 1.5 + 2 * 8.0
    now[0] += 5.0
    pace.pause()
    assert pace.remaining(steps=0, pauses=1) == 5.0
