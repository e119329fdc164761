"""Weights that are evaluated and saved: averaged over steps, and with the starting weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blip.distributed import local_shard


class AveragedWeights:
    """Exponential moving average of the trained parameters, then its average with the start; with 0 and 0 no cost.

    decay: of the moving average. start_share: share of the starting weights, which keeps most of what the model could
    do before (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
    """

    def __init__(self, model: nn.Module, decay: float, start_share: float = 0.0) -> None:
        self.decay, self.start_share = decay, start_share
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.trained = trained if decay or start_share else {}
        self.shadow = _copies(trained) if decay else {}
        self.start = _copies(trained) if start_share else {}

    @torch.no_grad()
    def update(self, steps_done: int) -> None:
        """shadow <- d * shadow + (1 - d) * p; d grows to `decay`, so that early weights count little."""
        if self.shadow:
            decay = min(self.decay, (1 + steps_done) / (10 + steps_done))
            shadows, trained = (
                [local_shard(p.detach()) for p in kind.values()] for kind in (self.shadow, self.trained)
            )
            torch._foreach_lerp_(shadows, trained, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
        weights = _copies(self.trained)
        self._set(self.shadow)
        self._add_start()
        try:
            yield
        finally:
            self._set(weights)

    @torch.no_grad()
    def _add_start(self) -> None:
        for name, value in self.start.items():
            local_shard(self.trained[name].detach()).lerp_(local_shard(value), self.start_share)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            local_shard(self.trained[name].detach()).copy_(local_shard(value))


def _copies(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}
