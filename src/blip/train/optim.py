"""Optimizer, learning-rate schedules and gradient clipping, for whole and sharded parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from blip.distributed import is_sharded, local_shard
from blip.tasks.base import ParamGroup, Step
from blip.train.config import TrainConfig


def learning_rate(config: TrainConfig, step: Step, total_steps: int) -> float:
    """Return the learning rate of an optimizer step, before the factors of parameter groups.

    cosine_epoch: half a cosine, constant within an epoch, no warm-up (original: utils.py cosine_lr_schedule).
    pretrain: decays by `lr_decay_rate` per epoch; the first epoch has a linear warm-up over `warmup_steps`, then stays
    at `lr` (step_lr_schedule, warmup_lr_schedule). cosine_step: linear warm-up, then half a cosine over the remaining
    steps. constant: linear warm-up, then `lr`.
    """
    if config.schedule == "cosine_epoch":
        epochs = config.epochs or max(1, math.ceil(total_steps / step.steps_per_epoch))
        return _cosine(config, step.epoch / epochs)
    if config.schedule == "pretrain":
        if step.epoch == 0:
            return min(config.lr, _warmup(config, step.index))
        return max(config.min_lr, config.lr * config.lr_decay_rate**step.epoch)
    if step.index < config.warmup_steps:
        return _warmup(config, step.index)
    if config.schedule == "constant":
        return config.lr
    return _cosine(config, (step.index - config.warmup_steps) / max(1, total_steps - config.warmup_steps))


def _cosine(config: TrainConfig, progress: float) -> float:
    return (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress)) + config.min_lr


def _warmup(config: TrainConfig, index: int) -> float:
    return config.warmup_lr + (config.lr - config.warmup_lr) * index / max(config.warmup_steps, 1)


def build_optimizer(groups: Sequence[ParamGroup], config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with torch's betas and eps, as the original; each group keeps its factor as `lr_scale`.

    A step of whole parameters is one kernel, which reads and writes each value once: on a CPU three times as fast.
    """
    return torch.optim.AdamW(
        [
            {
                "params": params,
                "lr_scale": group.lr_scale,
                "weight_decay": config.weight_decay if group.weight_decay is None else group.weight_decay,
                **_kernels(params),
            }
            for group in groups
            for params in _split_by_sharding(group.params)
        ],
        lr=config.lr,
    )


def _kernels(params: Sequence[nn.Parameter]) -> dict[str, bool]:
    fused = all(p.device.type in ("cpu", "cuda") and not is_sharded(p) for p in params)
    return {"fused": fused, "foreach": not fused}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state, perhaps of another device or an earlier version; the kernels stay those of this optimizer."""
    groups = [
        {**saved, "fused": group["fused"], "foreach": group["foreach"]}
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def _split_by_sharding(params: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Separate sharded from whole parameters: torch's foreach kernels cannot mix them."""
    kinds = [[p for p in params if is_sharded(p) is cut] for cut in (False, True)]
    return [kind for kind in kinds if kind]


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Return the norm of all gradients, the same on all processes, and clip them to `max_norm` if it is finite."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = _total_norm(grads)
    if grads and max_norm < math.inf:  # as torch's clip_grad_norm_, which without a limit multiplies all by 1
        torch._foreach_mul_([local_shard(grad) for grad in grads], (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return float(norm)


def _total_norm(grads: Sequence[Tensor]) -> Tensor:
    if not any(is_sharded(grad) for grad in grads):
        return torch.nn.utils.get_total_norm(grads)
    cut, whole = ([local_shard(grad) for grad in grads if is_sharded(grad) is kind] for kind in (True, False))
    squares = torch.nn.utils.get_total_norm(cut).square()
    dist.all_reduce(squares)
    return (squares + torch.nn.utils.get_total_norm(whole).square().to(squares.device)).sqrt()


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"]
