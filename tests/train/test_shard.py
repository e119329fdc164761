"""Checkpoints of a sharded model: resuming with the same number of processes, fewer or one, replicated or sharded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import blip.api
from blip.tasks.reward import Reward
from blip.train import TrainConfig, fit
from blip.train.checkpoints import SHARDS, STATE, VALUES, RunFolder, load_state
from blip_lite.errors import CheckpointError, ConfigError
from tests.train.photos import caption_task, loop, write_photos
from tests.train.processes import spawn
from tests.train.test_processes import compare


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def steps(count: int, **options: Any) -> TrainConfig:
    return loop(steps=count, batch_size=8, schedule="constant", ema=0.9, **options)


def run(photos: Path, folder: Path, config: TrainConfig) -> None:
    fit(caption_task(photos, whole_batch=True), config, folder, quiet=True)


def shard_and_resume(photos: Path, folder: Path) -> None:
    dist.init_process_group("gloo")
    run(photos, folder / "fsdp", steps(2, strategy="fsdp"))
    if dist.get_rank() == 0:
        for name in ("fsdp-ddp", "fsdp-one"):
            shutil.copytree(folder / "fsdp", folder / name, symlinks=True)
    dist.barrier()
    run(photos, folder / "fsdp", steps(4, strategy="fsdp"))
    run(photos, folder / "fsdp-ddp", steps(4))
    run(photos, folder / "one-fsdp", steps(4, strategy="fsdp"))
    run(photos, folder / "straight", steps(4, strategy="fsdp"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_run_resumes_with_any_processes(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "one", steps(4))
    run(photos, tmp_path / "one-fsdp", steps(2))
    spawn(2, shard_and_resume, photos, tmp_path)
    run(photos, tmp_path / "fsdp-one", steps(4))
    ways = ("fsdp", "fsdp-ddp", "fsdp-one", "one-fsdp", "straight")
    for way in ways:
        compare(tmp_path / way, tmp_path / "one")
    final = [(tmp_path / way / "final" / "model.safetensors").read_bytes() for way in ("fsdp", "straight")]
    assert final[0] == final[1]
    cut = tmp_path / "straight" / "checkpoints" / "step_4"
    assert (cut / SHARDS / VALUES).is_file() and len(list((cut / SHARDS).glob("*.distcp"))) == 2
    assert not (cut / STATE).exists() and not (tmp_path / "straight" / "final" / SHARDS).exists()
    assert not list(tmp_path.rglob("*.part*"))
    assert blip.api.load(cut, device="cpu").caption(photos / "red.png").text is not None


def test_an_incomplete_checkpoint_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.new(3) as part:
        (part / STATE).write_text("half")
        raise ZeroDivisionError
    assert folder.steps() == [] and not list(tmp_path.rglob("*.part*")) and not (tmp_path / "last").exists()


def test_unreadable_values_of_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / SHARDS).mkdir()
    (tmp_path / SHARDS / VALUES).write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json: cannot be read"):
        load_state(tmp_path)


def refused(photos: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="reward: not with strategy fsdp"):
        fit(caption_task(photos, reward=Reward(samples=2)), steps(1, strategy="fsdp"), folder, quiet=True)


@pytest.mark.slow
def test_a_reward_is_refused_for_a_sharded_model(photos: Path, tmp_path: Path) -> None:
    spawn(2, refused, photos, tmp_path)
