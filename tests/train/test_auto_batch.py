"""The first guess of a batch size, in numbers."""

from __future__ import annotations

import pytest
import torch

from blip.model.blip import BlipModel
from blip.train import auto_batch
from blip.train.config import TrainConfig
from blip_lite.config import published_config


@pytest.mark.parametrize(
    ("samples", "shares", "size"),
    [(5, 1, 5), (8, 1, 8), (300, 1, 15), (10000, 1, 32), (300, 4, 12), (7, 2, 6), (1, 2, 2)],
)
def test_on_a_cpu_the_data_decide(samples: int, shares: int, size: int) -> None:
    result, reason = auto_batch.batch_size(samples, shares, torch.nn.Module(), torch.device("cpu"), torch.float32)
    assert result == size and f"a 20th of {samples} samples, from 8 to 32 on a CPU" in reason


@pytest.mark.parametrize(
    ("free", "samples", "shares", "dtype", "size"),
    [
        (40e9, 10**6, 1, torch.float32, 32),  # what the original trains with on such a GPU
        (40e9, 10**6, 1, torch.bfloat16, 64),
        (40e9, 10**6, 8, torch.float32, 256),
        (40e9, 300, 1, torch.float32, 15),
        (4e9, 10**6, 1, torch.float32, 1),
    ],
)
def test_on_a_gpu_memory_decides_too(
    monkeypatch: pytest.MonkeyPatch, free: float, samples: int, shares: int, dtype: torch.dtype, size: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(free)))
    with torch.device("meta"):
        model = BlipModel(published_config("caption"))
    result, reason = auto_batch.batch_size(samples, shares, model, torch.device("cuda"), dtype)
    assert result == size and " GB free, about " in reason


def test_a_run_without_a_length_is_five_epochs_or_forty_steps() -> None:
    few = auto_batch.length(TrainConfig(), steps_per_epoch=2)
    assert (few.epochs, few.steps, few.eval_every, few.save_every) == (None, 40, 5, 5)
    many = auto_batch.length(TrainConfig(), steps_per_epoch=20)
    assert (many.epochs, many.steps, many.eval_every) == (5, None, 0)
    given = TrainConfig(epochs=1)
    assert auto_batch.length(given, steps_per_epoch=2) == given
