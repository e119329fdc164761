"""Pre-training lists that change with the epoch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from blip.data.loader import SampleRef
from blip.data.sources import Reading, SampleList, open_source
from blip.tasks.epoch_lists import EpochLists
from blip.train.config import TrainConfig
from blip.train.sample_order import sample_order
from blip_lite.errors import ConfigError, UsageError


def no_pixels(*args: Any) -> torch.Tensor:
    return torch.zeros(0)


def test_an_epoch_takes_the_list_of_its_turn(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for name, count in (("b", 3), ("a", 2)):
        rows = [{"image": "b0.png", "caption": f"{name} web (text)"}] * count
        (tmp_path / "web" / f"{name}.json").write_text(json.dumps(rows))
    (tmp_path / "fixed.json").write_text(json.dumps([{"image": "a0.png", "caption": "First. one"}]))
    fixed = open_source(tmp_path / "fixed.json")
    lists = EpochLists(fixed, str(tmp_path / "web"), Reading(), no_pixels, 1, 30)  # type: ignore[arg-type]
    assert [lists.epoch_length(epoch) for epoch in range(4)] == [3, 4, 3, 4] and len(lists) == 3
    assert lists[SampleRef(1, 0, 0)].texts == ("a web text",)
    assert lists.source[1].texts == ("a web (text)",)


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"contains no \.json lists"):
        EpochLists(SampleList([]), str(tmp_path), Reading(), no_pixels, 1, 30)  # type: ignore[arg-type]


def test_a_list_of_many_rows_is_read_through_an_index(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for name, count in (("a", 2), ("b", 3)):
        rows = [{"image": "b0.png", "caption": f"{name} {i}"} for i in range(count)]
        (tmp_path / "web" / f"{name}.json").write_text(json.dumps(rows))
    fixed = SampleList([replace(open_source(tmp_path / "web/a.json")[0], texts=("fixed",))])
    lists = EpochLists(fixed, str(tmp_path / "web"), Reading(memory_rows=2), no_pixels, 1, 30)  # type: ignore[arg-type]
    shards = [lists.epoch_shards(epoch) for epoch in range(3)]
    assert shards[0] is None and shards[2] is None and shards[1] is not None and shards[1].tolist() == [1, 3]
    order = sample_order(lists, TrainConfig(shuffle_window=1), 0)
    assert order is not None
    for epoch, length in ((0, 3), (1, 4)):
        taken = order.take(epoch, 0, length)[0].tolist()
        assert sorted(taken) == list(range(length))
        texts = sorted(lists[SampleRef(row, epoch, 0)].texts[0] for row in taken)
        assert texts == ["ab"[epoch] + f" {i}" for i in range(length - 1)] + ["fixed"]
    with pytest.raises(ConfigError, match="mix: not with lists that change with the epoch"):
        sample_order(lists, TrainConfig(mix=(1, 2)), 0)
