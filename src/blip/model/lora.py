"""Low-rank adapters of linear layers (LoRA, Hu et al. 2021), merged into the weights after training."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip.model.mkldnn_linear import Linear
from blip.model.training_linear import training_linear
from blip_lite.errors import ConfigError

NAMES = ("lora_a", "lora_b")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters weight + alpha / rank * B A of the layers that `targets` match.

    targets: patterns of layer names (`encoder.*.q`); by default queries and values of all attentions.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("*.q", "*.v")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank {self.rank}: must be 1 or more")


class LoraLinear(Linear):
    """Linear layer with an adapter that is initialised to zero. Its weight is never packed."""

    def __init__(self, base: Linear, lora: Lora) -> None:
        super().__init__(base.in_features, base.out_features, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = lora.alpha / lora.rank
        self.lora_a = nn.Parameter(nn.init.kaiming_uniform_(base.weight.new_empty(lora.rank, base.in_features), 5**0.5))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, lora.rank))

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        adapter = F.linear(F.linear(x, self.lora_a), self.lora_b)
        y = training_linear(x, self.weight, self.bias) + self.scale * adapter
        return F.gelu(y) if gelu else y

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight with the adapter merged into it."""
        return self.weight + self.scale * self.lora_b @ self.lora_a


def add_lora(model: nn.Module, lora: Lora, skip: tuple[str, ...] = ()) -> None:
    """Replace the layers that `lora.targets` match with LoraLinear, except names starting with one of `skip`.

    A shared layer stays shared; a model that has adapters already is not changed. Uses torch's global generator.
    Raises ConfigError if no layer matches.
    """
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        return
    replaced: dict[nn.Module, LoraLinear] = {}
    for name, module in list(model.named_modules()):
        matches = any(fnmatchcase(name, pattern) for pattern in lora.targets)
        if type(module) is Linear and matches and not (skip and name.startswith(skip)):
            replaced[module] = LoraLinear(module, lora)
    if not replaced:
        raise ConfigError(
            f"lora.targets {', '.join(lora.targets)}: match no trainable linear layer; example: encoder.*.q"
        )
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in replaced:
                setattr(parent, name, replaced[child])


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """State dict of the equivalent model without adapters."""
    state = dict(model.state_dict())
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LoraLinear):
            state[f"{name}.weight"] = module.merged()
            for adapter in NAMES:
                del state[f"{name}.{adapter}"]
    return state
