"""Low-rank additions to linear layers (LoRA, Hu et al. 2021): few weights to train, none left when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.model.mkldnn_linear import Linear
from blip_lite.errors import ConfigError

NAMES = ("lora_a", "lora_b")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """How large the additions are and where: weight + alpha / rank * B A in every layer that `targets` name.

    targets: patterns of layer names (`encoder.*.q`); by default the queries and values of all attentions.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("*.q", "*.v")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank {self.rank}: must be 1 or more")


class LoraLinear(Linear):
    """A linear layer with an addition that starts at zero. While it is trained, its weight is never packed."""

    def __init__(self, base: Linear, lora: Lora) -> None:
        super().__init__(base.in_features, base.out_features, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = lora.alpha / lora.rank
        self.lora_a = nn.Parameter(nn.init.kaiming_uniform_(base.weight.new_empty(lora.rank, base.in_features), 5**0.5))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, lora.rank))

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        added = F.linear(F.linear(x, self.lora_a), self.lora_b)
        y = F.linear(x, self.weight, self.bias) + self.scale * added
        return F.gelu(y) if gelu else y

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight with its addition."""
        return self.weight + self.scale * self.lora_b @ self.lora_a


def add_lora(model: nn.Module, lora: Lora, skip: tuple[str, ...] = ()) -> None:
    """Gives the layers that `lora` names their additions, except where a name starts with one of `skip`.

    A layer that two parts share is the same in both afterwards; a model that has additions keeps them. Draws from
    torch's generator.
    """
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        return
    replaced: dict[nn.Module, LoraLinear] = {}
    for name, module in list(model.named_modules()):
        named = any(fnmatchcase(name, pattern) for pattern in lora.targets)
        if type(module) is Linear and named and not (skip and name.startswith(skip)):
            replaced[module] = LoraLinear(module, lora)
    if not replaced:
        raise ConfigError(f"lora.targets {', '.join(lora.targets)}: fit no layer that is trained; example: encoder.*.q")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in replaced:
                setattr(parent, name, replaced[child])


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of the model without additions that computes the same."""
    state = dict(model.state_dict())
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LoraLinear):
            state[f"{name}.weight"] = module.merged()
            for addition in NAMES:
                del state[f"{name}.{addition}"]
    return state
