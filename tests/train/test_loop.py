"""The training loop: learning, logs, stopping, bit-exact resuming, messages."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch.testing import assert_close

import blip.api
from blip.cli import main
from blip.data.loader import SampleRef
from blip.model.lora import Lora
from blip.tasks.initialize import FineTune
from blip.train import fit, log
from blip.train.checkpoints import STATE, RunFolder
from blip_lite.errors import CheckpointError, ConfigError, TrainingDiverged, UsageError
from tests.train.photos import COLOURS, caption_task, loop, pretrain_task, write_photos
from tests.waiting import HANG_SECONDS, wait_until


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def final(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_a_run_learns_eight_photos_by_heart(photos: Path, tmp_path: Path) -> None:
    task = caption_task(photos, val=str(photos))
    fitted = fit(task, loop(steps=120, batch_size=8, lr=3e-3, eval_every=120, schedule="constant"), tmp_path)
    assert fitted.reason == "finished"
    assert fitted.metrics["bleu1"] == pytest.approx(1.0)
    model = blip.api.load(tmp_path, device="cpu")
    for name in COLOURS:
        assert model.caption(photos / f"{name}.png", min_length=1).text == f"a {name} wall"


def test_a_run_leaves_config_log_and_models(photos: Path, tmp_path: Path) -> None:
    fit(caption_task(photos, val=str(photos)), loop(steps=4, eval_every=2, save_every=1, keep=2), tmp_path)
    assert "batch_size: 4" in (tmp_path / "config.yaml").read_text()
    assert list((tmp_path / "tb").iterdir())
    steps = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert list(steps[0])[:4] == ["schema", "step", "epoch", "loss"]
    assert {"lr", "grad_norm", "images_per_s", "seconds", "mem_mb", "loss_lm"} <= steps[0].keys()
    assert [row["step"] for row in rows(tmp_path) if "val_cider" in row] == [2, 4]
    best = (tmp_path / "best").resolve().name
    assert set(RunFolder(tmp_path).steps()) == {3, 4} | {int(best.removeprefix("step_"))}
    assert (tmp_path / "last").resolve().name == "step_4"
    for folder in (tmp_path, tmp_path / "best", tmp_path / "checkpoints" / "step_4"):
        assert blip.api.load(folder, device="cpu").caption(photos / "red.png").text is not None
    assert not list(tmp_path.rglob("*.part*"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9, "accumulate": 2},
        {"dtype": "bf16", "workers": 1},
        {"schedule": "cosine_step", "warmup_steps": 2},
    ],
    ids=str,
)
def test_a_stopped_run_ends_in_the_same_bytes(photos: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    fit(pretrain_task(photos), loop(**options), tmp_path / "whole")
    fit(pretrain_task(photos), loop(**options, max_minutes=0.0), tmp_path / "parts")
    assert RunFolder(tmp_path / "parts").steps() == [1]
    for _ in range(2):
        fit(pretrain_task(photos), loop(**options, max_minutes=0.0), tmp_path / "parts")
    fit(pretrain_task(photos), loop(**options), tmp_path / "parts")
    assert final(tmp_path / "parts") == final(tmp_path / "whole")
    timeless = [
        [{k: v for k, v in row.items() if k.startswith(("loss", "step", "lr"))} for row in rows(tmp_path / name)]
        for name in ("parts", "whole")
    ]
    assert timeless[0] == timeless[1]


def command(photos: Path, folder: Path, steps: int) -> list[str]:
    task = ["pretrain", "--data", str(photos), "--init", "random-tiny", "-o", str(folder), "--queue-size", "10"]
    loop_flags = ["--steps", str(steps), "--batch-size", "4", "--lr", "1e-3", "--save-every", "1", "--workers", "0"]
    return [sys.executable, "-m", "blip", "train", *task, *loop_flags, "--threads", "1", "--device", "cpu"]


def test_sigterm_to_all_processes_saves_and_the_same_command_resumes(photos: Path, tmp_path: Path) -> None:
    with_workers = [*command(photos, tmp_path / "run", 100000), "--workers", "2"]
    process = subprocess.Popen(with_workers, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_step(tmp_path / "run", process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 143, errors
    assert "run the same command again to resume" in errors
    stopped = RunFolder(tmp_path / "run").steps()[-1]
    fitted = fit(pretrain_task(photos, start=_start()), loop(steps=stopped + 1, seed=42), tmp_path / "run", quiet=True)
    assert fitted.step == stopped + 1


def _start() -> Any:
    from blip.tasks.initialize import Start

    return Start(init="random-tiny")


def wait_for_step(folder: Path, process: subprocess.Popen[str], step: int = 1) -> None:
    wait_until(lambda: max(RunFolder(folder).steps(), default=0) >= step, process)


def kill_and_resume(photos: Path, folder: Path, kills: int, steps: int) -> None:
    """Kill the run at random moments after its first checkpoint, then let it finish."""
    rng = random.Random(0)
    for kill in range(kills):
        with open(folder.with_name("stderr"), "w") as stderr:
            process = subprocess.Popen(command(photos, folder, steps), stderr=stderr, text=True)
        wait_for_step(folder, process, step=1 + kill * steps // kills + rng.randrange(5))
        time.sleep(rng.uniform(0, 0.1))  # anywhere within a step
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert main(command(photos, folder, steps)[3:]) == 0


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_run_ends_in_the_same_bytes(photos: Path, tmp_path: Path, kills: int) -> None:
    steps = 15 * kills
    assert main(command(photos, tmp_path / "whole", steps)[3:]) == 0
    kill_and_resume(photos, tmp_path / "killed", kills, steps)
    assert final(tmp_path / "killed") == final(tmp_path / "whole")


def test_the_last_good_checkpoint_loads_when_the_newest_is_broken(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(caption_task(photos), loop(save_every=2), tmp_path)
    newest = tmp_path / "checkpoints" / "step_6" / STATE
    newest.write_bytes(newest.read_bytes()[:1000])
    expected = final(tmp_path)
    fit(caption_task(photos), loop(save_every=2), tmp_path)
    assert "step_6" in caplog.text
    assert final(tmp_path) == expected


def test_a_diverging_loss_stops_the_run_and_names_step_and_cause(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"step \d+: .*(nan|inf).*lr 1e\+12.*max_grad_norm"):
        fit(caption_task(photos), loop(steps=50, lr=1e12, save_every=1, schedule="constant"), tmp_path)
    last = torch.load(tmp_path / "last" / STATE, weights_only=True)
    assert all(torch.isfinite(v).all() for v in last["model"].values())


def test_resuming_with_another_batch_size_is_refused(photos: Path, tmp_path: Path) -> None:
    fit(caption_task(photos), loop(steps=1), tmp_path)
    with pytest.raises(ConfigError, match="batch_size 2; must be 4"):
        fit(caption_task(photos), loop(batch_size=2), tmp_path)
    with pytest.raises(UsageError, match="contains a run at step 1"):
        fit(caption_task(photos), loop(), tmp_path, resume="none")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        fit(caption_task(photos), loop(), tmp_path, resume=str(tmp_path / "nothing"))


def test_gradient_checkpoints_change_nothing(photos: Path, tmp_path: Path) -> None:
    for blocks in (0, 2):
        fit(caption_task(photos), loop(grad_checkpoint=blocks), tmp_path / str(blocks))
    assert final(tmp_path / "0") == final(tmp_path / "2")


def test_frozen_parts_keep_their_weights(photos: Path, tmp_path: Path) -> None:
    fit(caption_task(photos, tune=FineTune(freeze=("vision",))), loop(weight_decay=0.5), tmp_path)
    start = caption_task(photos).setup.build_model().state_dict()
    end = load_file(tmp_path / "final" / "model.safetensors")
    changed = {name.split(".")[0] for name, value in end.items() if not torch.equal(value, start[name])}
    assert changed == {"decoder"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, while it traces
def test_compiled_blocks_train_to_the_same_weights(photos: Path, tmp_path: Path) -> None:
    for compiled in (False, True):
        fit(caption_task(photos), loop(steps=3, compile=compiled), tmp_path / str(compiled))
    plain, fast = (load_file(tmp_path / str(c) / "final" / "model.safetensors") for c in (False, True))
    for name, value in plain.items():
        assert_close(fast[name], value, atol=1e-4, rtol=1e-3, msg=name)


def test_low_rank_additions_train_alone_and_leave_plain_weights(photos: Path, tmp_path: Path) -> None:
    options = {"tune": FineTune(lora=Lora(rank=2))}
    fit(caption_task(photos, **options), loop(weight_decay=0.5), tmp_path / "whole")
    fit(caption_task(photos, **options), loop(weight_decay=0.5, max_minutes=0.0), tmp_path / "parts")
    fit(caption_task(photos, **options), loop(weight_decay=0.5), tmp_path / "parts")
    assert final(tmp_path / "parts") == final(tmp_path / "whole")
    state = torch.load(tmp_path / "whole" / "last" / STATE, weights_only=True)
    assert "decoder.blocks.0.attn.q.lora_a" in state["model"]
    start = caption_task(photos).setup.build_model().state_dict()
    end = load_file(tmp_path / "whole/final/model.safetensors")
    assert start.keys() == end.keys()
    changed = {name.split(".")[-2] for name, value in end.items() if not torch.equal(value, start[name])}
    assert changed == {"q", "v"}
    assert blip.api.load(tmp_path / "whole", device="cpu").caption(photos / "red.png").text is not None


def test_a_run_that_gets_no_better_ends_and_stays_ended(photos: Path, tmp_path: Path) -> None:
    task = caption_task(photos, val=str(photos))
    still = loop(steps=50, eval_every=2, patience=3, lr=0.0, weight_decay=0.0)
    fitted = fit(task, still, tmp_path)
    assert (fitted.reason, fitted.step, fitted.best_step) == ("no improvement", 8, 2)  # the first, then three like it
    assert final(tmp_path) == (tmp_path / "best" / "model.safetensors").read_bytes()
    assert fit(task, still, tmp_path).step == 8
    assert fit(task, replace(still, patience=4), tmp_path).step == 10
    for without in (caption_task(photos), caption_task(photos, val=str(photos), best=None)):
        with pytest.raises(ConfigError, match="patience 3: needs a validation score"):
            fit(without, still, tmp_path / "none")


def test_an_estimated_batch_size_is_reported_and_kept(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(caption_task(photos), loop(steps=1, batch_size=None), tmp_path)
    assert (
        "batch size 8: a 20th of 8 samples, from 8 to 32 on a CPU; change it with --batch-size"
        in capsys.readouterr().err
    )
    assert "batch_size: 8" in (tmp_path / "config.yaml").read_text()
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "red.txt").write_text("a red wall\n")
    fitted = fit(caption_task(tmp_path / "photos"), loop(steps=2, batch_size=None), tmp_path)
    assert fitted.step == 2 and "batch size" not in capsys.readouterr().err


def test_the_first_line_of_progress_comes_soon(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "FIRST_SECONDS", 0.0)
        fit(caption_task(photos), loop(steps=4, log_every=100), tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "img/s" in line]
    assert [line.split()[1] for line in lines] == ["1/4", "4/4"]  # then not before half a minute has gone
    assert re.fullmatch(r"step 1/4 epoch 0 loss [\d.]+ lm [\d.]+ [\d.]+ img/s, about \d+:\d\d left", lines[0])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batches_of_one_photo_train(photos: Path, tmp_path: Path, accumulate: int) -> None:
    fit(pretrain_task(photos), loop(steps=2, batch_size=accumulate, accumulate=accumulate), tmp_path)
    assert all(row["loss_itm"] > 0 for row in rows(tmp_path))  # the matching pairs alone


def test_lists_change_with_the_epochs(photos: Path, tmp_path: Path) -> None:
    names = list(COLOURS)
    for file, chosen in (("fixed.json", names[:4]), ("web/b.json", names[4:]), ("web/a.json", names[4:6])):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        pairs = [{"image": str(photos / f"{name}.png"), "caption": f"a {name} wall"} for name in chosen]
        (tmp_path / file).write_text(json.dumps(pairs))
    options = {"web": str(tmp_path / "web"), "same_image_ids": True}
    config = loop(steps=None, epochs=3, batch_size=2, workers=1)
    fitted = fit(pretrain_task(tmp_path / "fixed.json", **options), config, tmp_path / "whole")
    assert [row["epoch"] for row in rows(tmp_path / "whole")] == [0] * 3 + [1] * 4 + [2] * 3
    assert RunFolder(tmp_path / "whole").steps() == [3, 7, 10] and fitted.total_steps == 10
    for minutes in (*[0.0] * 9, None):
        fit(pretrain_task(tmp_path / "fixed.json", **options), replace(config, max_minutes=minutes), tmp_path / "parts")
    assert final(tmp_path / "parts") == final(tmp_path / "whole")
    data = pretrain_task(tmp_path / "fixed.json", **options).dataset()
    samples = [data[SampleRef(index, epoch, 0)] for index, epoch in ((1, 0), (4, 0), (4, 1), (7, 1), (4, 2))]
    assert [s.texts[0].split()[1] for s in samples] == [names[1], names[4], names[4], names[7], names[4]]
    assert samples[0].index == 1 and samples[1].index == samples[4].index != samples[2].index


def one_rank(rank: int, photos: Path, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT="29533"
    )
    torch.set_num_threads(1)
    fit(caption_task(photos, val=str(photos)), loop(accumulate=2, batch_size=8), folder, quiet=True)


def test_two_processes_give_the_result_of_one(photos: Path, tmp_path: Path) -> None:
    """Captions of equal length have a loss that is the mean over photos, so the mean over processes is the same."""
    mp.spawn(one_rank, args=(photos, tmp_path / "two"), nprocs=2)
    fit(caption_task(photos), loop(accumulate=2, batch_size=8), tmp_path / "one")
    norms = [[row["grad_norm"] for row in rows(tmp_path / name) if "loss" in row] for name in ("one", "two")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    single, double = (torch.load(tmp_path / name / "last" / STATE, weights_only=True) for name in ("one", "two"))
    for number, state in single["optimizer"]["state"].items():
        # averaged gradients instead of weights: Adam turns rounding errors of small gradients into whole steps
        assert_close(
            double["optimizer"]["state"][number]["exp_avg"], state["exp_avg"], atol=1e-4 * norms[0][-1], rtol=0
        )
