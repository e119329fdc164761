"""Learning rates as the original's schedules give them, and averaged weights."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from blip.tasks.base import ParamGroup, Step, alpha_ramp
from blip.train.averages import AveragedWeights
from blip.train.config import TrainConfig
from blip.train.optim import build_optimizer, learning_rate, load_optimizer, set_learning_rate
from blip_lite.errors import ConfigError
from tests.oracle_files import values

SCHEDULES = values("schedules")


def at(config: TrainConfig, epoch: int, in_epoch: int = 0, per_epoch: int = 10) -> float:
    return learning_rate(config, Step(epoch * per_epoch + in_epoch, epoch, per_epoch), (config.epochs or 1) * per_epoch)


@pytest.mark.parametrize("case", SCHEDULES["cosine"], ids=lambda c: str(c["max_epoch"]))
def test_cosine_equals_the_original(case: dict[str, float]) -> None:
    config = TrainConfig(epochs=case["max_epoch"], lr=case["init_lr"], min_lr=case["min_lr"], schedule="cosine_epoch")
    result = [at(config, epoch, in_epoch=7) for epoch in range(len(case["lr"]))]
    assert result == pytest.approx(case["lr"], rel=1e-12)


@pytest.mark.parametrize("case", SCHEDULES["warmup"], ids=lambda c: str(c["max_step"]))
def test_warm_up_of_the_first_epoch_equals_the_original(case: dict[str, float]) -> None:
    config = TrainConfig(
        epochs=20, lr=case["max_lr"], warmup_lr=case["init_lr"], warmup_steps=case["max_step"], schedule="pretrain"
    )
    result = [at(config, 0, step, per_epoch=10**6) for step in case["steps"]]
    assert result == pytest.approx(case["lr"], rel=1e-12)


@pytest.mark.parametrize("case", SCHEDULES["step"], ids=lambda c: str(c["decay_rate"]))
def test_decay_by_epochs_equals_the_original(case: dict[str, float]) -> None:
    config = TrainConfig(
        epochs=20, lr=case["init_lr"], min_lr=case["min_lr"], lr_decay_rate=case["decay_rate"], schedule="pretrain"
    )
    result = [at(config, epoch) for epoch in range(1, len(case["lr"]))]  # the first epoch is warm-up
    assert result == pytest.approx(case["lr"][1:], rel=1e-12)


@pytest.mark.parametrize(("key", "epochs"), [("alpha_pretrain", 2), ("alpha_retrieval", 1)])
def test_the_weight_of_momentum_targets_equals_the_original(key: str, epochs: int) -> None:
    info = SCHEDULES[key]
    length = info["len_loader"]
    for epoch, step, alpha in info["values"]:
        result = alpha_ramp(info["alpha"], Step(epoch * length + step, epoch, length), epochs)
        assert result == pytest.approx(alpha, rel=1e-9)


def test_cosine_by_step_climbs_and_falls_to_the_minimum() -> None:
    config = TrainConfig(steps=100, lr=1.0, min_lr=0.1, warmup_lr=0.2, warmup_steps=10, schedule="cosine_step")
    result = [learning_rate(config, Step(i, 0, 100), 100) for i in range(101)]
    assert result[0] == pytest.approx(0.2)
    assert result[10] == pytest.approx(1.0)
    assert result[55] == pytest.approx(0.55)
    assert result[100] == pytest.approx(0.1)


def test_groups_keep_their_factor_and_their_decay() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups = [ParamGroup(params=[a]), ParamGroup(params=[b], lr_scale=0.1, weight_decay=0.0)]
    optimizer = build_optimizer(groups, TrainConfig(steps=1, weight_decay=0.3))
    set_learning_rate(optimizer, 2.0)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(2.0, 0.3), (0.2, 0.0)]


@pytest.mark.parametrize("fused", [False, True])
def test_a_state_of_other_kernels_resumes_with_those_of_this_optimizer(fused: bool) -> None:
    def trained(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> torch.Tensor:
        for _ in range(2):
            weight.grad = torch.tensor([0.5, -2.0])
            optimizer.step()
        return weight.detach().clone()

    config = TrainConfig(steps=1, lr=0.1)
    weight, other = (nn.Parameter(torch.tensor([1.0, 2.0])) for _ in "ab")
    optimizer, resumed = (build_optimizer([ParamGroup(params=[p])], config) for p in (weight, other))
    other.data.copy_(trained(optimizer, weight))
    state = deepcopy(optimizer.state_dict())
    state["param_groups"][0] |= {"fused": fused, "foreach": not fused}
    load_optimizer(resumed, state)
    assert [(group["fused"], group["foreach"]) for group in resumed.param_groups] == [(True, False)]
    assert_close(trained(resumed, other), trained(optimizer, weight), rtol=0, atol=0)


def test_a_step_equals_the_formula_of_adamw() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    start, grads = weight.detach().clone(), torch.tensor([[0.5, -2.0, 1e-3], [-1.0, 0.25, 4.0]], dtype=torch.float64)
    optimizer = build_optimizer([ParamGroup(params=[weight])], TrainConfig(steps=1, lr=0.1, weight_decay=0.3))
    mean, square, expected = torch.zeros(3).double(), torch.zeros(3).double(), start
    for t, grad in enumerate(grads, start=1):
        weight.grad = grad.clone()
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        step = mean / (1 - 0.9**t) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
        expected = expected * (1 - 0.1 * 0.3) - 0.1 * step
    assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)


def test_averaged_weights_follow_slowly_and_give_way_to_the_model_s_own() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = AveragedWeights(model, 0.5)
    nn.init.constant_(model.weight, 3.0)
    average.update(100)
    with average.applied():
        assert model.weight.item() == 2.0
    assert model.weight.item() == 3.0
    early = AveragedWeights(model, 0.999)
    nn.init.constant_(model.weight, 4.0)
    early.update(0)  # decay (1 + 0) / (10 + 0)
    assert_close(early.shadow["weight"], torch.tensor([[3.9]]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 1, "steps": 1}, "epochs and steps; give one of the two, or neither"),
        ({"steps": 1, "batch_size": 6, "accumulate": 4}, "batch_size 6: must be a multiple of accumulate"),
        ({"steps": 1, "dtype": "fp16"}, "dtype fp16: must be auto, fp32 or bf16"),
        ({"steps": 1, "dtype": "int8"}, "dtype int8: must be auto, fp32 or bf16"),
        ({"steps": 1, "ema": 1.0}, "ema 1.0: must be from 0"),
        ({"steps": 1, "lr": float("nan")}, "lr nan: must be 0 or more"),
        ({"steps": 0}, "steps 0: must be 1 or more"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**values)  # type: ignore[arg-type]
