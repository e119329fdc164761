"""Pre-training lists that change with the epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blip.data.loader import SampleRef
from blip.data.sources import Reading, SampleList, open_source
from blip.tasks.epoch_lists import EpochLists
from blip_lite.errors import UsageError


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
