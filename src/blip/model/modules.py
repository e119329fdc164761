"""nn.Module and nn.ModuleList with types: what a call returns, what a list holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Module(nn.Module):
    """nn.Module that returns one tensor when called (torch declares Any)."""

    if TYPE_CHECKING:
        __call__: Callable[..., Tensor]


class Blocks(nn.ModuleList, Generic[M]):
    """nn.ModuleList of modules of one class."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...

        def __getitem__(self, index: int) -> M: ...  # type: ignore[override]
