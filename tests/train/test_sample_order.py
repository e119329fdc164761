"""Training on rows that stay on disk, and on mixtures: what a step takes, resuming, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blip.cli import main
from blip.data.indexed_source import IndexedSource
from blip.data.loader import EpochSampler, SampleRef, batches
from blip.data.sources import Reading, SampleList
from blip.tasks.reward import Reward
from blip.train import TrainConfig, fit
from blip.train.notes import held_out_note
from blip.train.sample_order import sample_order
from blip_lite.errors import ConfigError
from tests.data.test_sources import write_tar
from tests.train.photos import COLOURS, caption_task, loop, pretrain_task, write_photos
from tests.train.test_loop import final

INDEXED = Reading(memory_rows=0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tars of two photos, and a table of all of them."""
    folder = tmp_path_factory.mktemp("shards")
    photos, names = write_photos(folder / "photos"), list(COLOURS)
    for number in range(4):
        members = [
            (f"{name}.{ending}", (photos / f"{name}.{ending}").read_bytes())
            for name in names[2 * number : 2 * number + 2]
            for ending in ("png", "txt")
        ]
        write_tar(folder / f"{number}.tar", members)
    rows = [{"image": f"photos/{name}.png", "caption": f"a {name} wall"} for name in names]
    (folder / "all.json").write_text(json.dumps(rows))
    return folder


def sampler(task: Any, config: TrainConfig, **options: Any) -> EpochSampler:
    data = task.dataset()
    order = sample_order(data, config, len(data) // 4 * 4)
    return EpochSampler(len(data), 4, config.seed, order=order, **options)


def test_the_same_samples_are_read_from_memory_and_through_an_index(shards: Path) -> None:
    memory, disk = (caption_task(shards / "*.tar", reading=r).dataset() for r in (Reading(), INDEXED))
    assert isinstance(memory.source, SampleList) and isinstance(disk.source, IndexedSource)
    for index in range(8):
        ref = SampleRef(index, 0, 77 + index)
        assert memory[ref].texts == disk[ref].texts
        assert memory[ref].pixel_values.equal(disk[ref].pixel_values)


def test_data_in_memory_keep_their_order_whatever_the_window(shards: Path) -> None:
    assert sample_order(caption_task(shards / "all.json").dataset(), TrainConfig(shuffle_window=1), 8) is None


@pytest.mark.parametrize("options", [{"shuffle_window": 2}, {"mix": (1, 3)}], ids=str)
def test_samples_follow_from_seed_and_step_for_any_number_of_processes_and_workers(
    shards: Path, options: dict[str, Any]
) -> None:
    data = [str(shards / "[01].tar"), str(shards / "[23].tar")]
    task, config = replace(caption_task(shards, reading=INDEXED), data=data), TrainConfig(**options)
    whole = sampler(task, config)
    expected = [whole.refs(step) for step in range(9)]
    for world in (2, 4):
        ranks = [sampler(task, config, rank=rank, world_size=world) for rank in range(world)]
        for step in (7, 3, 8):
            assert [ref for rank in ranks for ref in rank.refs(step)] == expected[step]
    for workers in (0, 2):
        read = batches(task.dataset(), list, sampler(task, config), 5, workers, stop_step=9)
        texts = {step: [sample.texts for sample in batch] for step, batch in read}
        source = task.setup.training_source
        assert texts == {step: [source[ref.index].texts for ref in expected[step]] for step in range(5, 9)}


def test_a_stopped_run_on_shards_ends_in_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    def run(folder: str, minutes: float | None = None) -> None:
        task = pretrain_task(shards / "*.tar", reading=INDEXED)
        fit(task, loop(steps=3, shuffle_window=3, workers=1, max_minutes=minutes), tmp_path / folder)

    run("whole")
    run("parts", 0.0)
    run("parts")
    assert final(tmp_path / "parts") == final(tmp_path / "whole")
    task = pretrain_task(shards / "*.tar", reading=INDEXED)
    with pytest.raises(
        ConfigError, match=r"samples from windows of 2 of 4 shards .*; must be windows of 3 of 4 shards"
    ):
        fit(task, loop(shuffle_window=2, steps=8), tmp_path / "parts")


def test_the_command_mixes_sources_and_refuses_other_shares(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        "caption",
        "--data",
        str(shards / "[012].tar"),
        "--data",
        str(shards / "3.tar"),
        "--val",
        "none",
    ]
    command += ["--init", "random-tiny", "-o", str(tmp_path), "--batch-size", "4", "--workers", "0", "--keep-state"]
    assert main([*command, "--steps", "1", "--mix", "1,2"]) == 0
    assert "mix:\n  - 1\n  - 2\n" in (tmp_path / "config.yaml").read_text()
    capsys.readouterr()
    for mix, reason in (
        ("1,3", "samples from 1 of 6 rows, all rows; 3 of 2 rows, all rows; must be 1 of 6 rows"),
        ("1,2,3", "mix 1,2,3: must have one weight for each of 2 sources"),
        ("1,x", "--mix 1,x; must be whole numbers such as 1,2, one for each --data"),
        ("0,1", "mix 0,1: must be whole numbers from 1"),
    ):
        assert main([*command, "--steps", "2", "--mix", mix]) == 2
        assert reason in capsys.readouterr().err


def test_tasks_that_need_all_rows_hold_them_in_memory(shards: Path) -> None:
    task = caption_task(shards / "*.tar", reading=INDEXED, reward=Reward(samples=2))
    assert isinstance(task.setup.training_source, SampleList)


def test_a_run_reports_that_it_holds_out_no_share_of_indexed_rows(shards: Path) -> None:
    task = caption_task(shards / "*.tar", reading=INDEXED, val="auto")
    assert held_out_note(task).startswith("none of 8 rows held out for evaluation: rows that are read through an index")
    assert not task.setup.has_validation
    with pytest.raises(ConfigError, match="val 10%"):
        replace(task, val="10%").setup.training_source  # noqa: B018
