"""A model that is cut over the processes (FSDP2): each holds a part of weights, gradients, optimizer and averages.

What is called by itself is cut by itself: blocks of the ViT, attentions and MLPs of the text side. All else belongs to
the root, whose forward pass is the task's loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from blip import distributed
from blip.model.text import TextBlock
from blip.model.vision import VisionTransformer
from blip.train.optim import EMA
from blip_lite.errors import CheckpointError, CheckpointMismatch, EnvironmentProblem


def shard_model(root: nn.Module, device: torch.device) -> None:
    """Cuts the parameters of `root` over all processes, in place. Those without a dimension stay whole everywhere."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # of all keys and values, which are views of heads; nothing here changes one in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for part in dict.fromkeys(_parts(root)):  # encoder and decoder of pre-training share some
        fully_shard(part, mesh=mesh)
        if hasattr(part, "keys_values"):
            register_fsdp_forward_method(part, "keys_values")
    fully_shard(root, mesh=mesh, ignored_params={p for p in root.parameters() if p.dim() == 0})


def _parts(root: nn.Module) -> Iterator[nn.Module]:
    for module in root.modules():
        if isinstance(module, VisionTransformer):
            yield from module.blocks
        elif isinstance(module, TextBlock):
            cross = getattr(module, "cross", None)
            yield from (module.attn, module.mlp)
            yield from cross if isinstance(cross, nn.ModuleList) else [] if cross is None else [cross]


def average_whole_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Averages over the processes the gradients of parameters that are not cut, as FSDP does those of the others."""
    for parameter in parameters:
        if parameter.grad is not None and not distributed.is_sharded(parameter):
            dist.all_reduce(parameter.grad)
            parameter.grad /= distributed.world_size()


@torch.no_grad()
def fill(plain: nn.Module | None, model: nn.Module) -> None:
    """Puts the whole weights of a cut model into its plain copy, which the first process has. All processes call."""
    targets = {} if plain is None else plain.state_dict()
    for name, value in model.state_dict().items():
        whole = cast(Any, value).full_tensor() if distributed.is_sharded(value) else value
        if plain is not None:
            targets[name].copy_(whole)


def named_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: EMA, stored: set[str] | None = None
) -> dict[str, Tensor]:
    """All tensors of a run by name, as they lie in memory: to change them is to change the run.

    stored: names that will be filled in; the optimizer has state only for parameters that have had a gradient.
    """
    found = {f"model.{name}": t.detach() for name, t in (*model.named_parameters(), *model.named_buffers())}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = f"optimizer.{names[parameter]}"
            if stored is not None and f"{name}.step" in stored:
                moments = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
            found |= {f"{name}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
    return found | {f"average.{name}": value for name, value in average.shadow.items()}


def named_state(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a whole state by the same names. names: the trained parameters, in the order of their groups."""
    found = {f"model.{name}": value for name, value in state["model"].items()}
    for number, moments in state["optimizer"]["state"].items():
        found |= {f"optimizer.{names[number]}.{key}": value for key, value in moments.items()}
    return found | {f"average.{name}": value for name, value in state["average"].items()}


def copy_parts(tensors: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    """Fills tensors in memory, cut or not, from whole ones."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    _check_names(tensors, set(whole), "the checkpoint")
    for name, tensor in tensors.items():
        value = whole[name].to(tensor.device)
        if isinstance(tensor, DTensor):
            value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
        distributed.local_shard(tensor).copy_(distributed.local_shard(value))


def write_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Every process writes its parts (torch.distributed.checkpoint). All processes call."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(tensors), storage_writer=FileSystemWriter(folder))
    except CheckpointException as error:
        raise EnvironmentProblem(f"{folder}: cannot be written ({_cause(error)})") from error


def stored_names(folder: Path) -> set[str]:
    """Names of the tensors that `write_parts` has written. The index is a pickle: read none that you do not trust."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    try:
        return set(FileSystemReader(folder).read_metadata().state_dict_metadata)
    except Exception as error:  # damaged pickles raise nearly anything
        raise CheckpointError(f"{folder}: cannot be read ({type(error).__name__})") from error


def read_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fills tensors in memory from what any number of processes has written."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    _check_names(tensors, stored_names(folder), str(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is .*single process")
            load(dict(tensors), storage_reader=FileSystemReader(folder))
    except CheckpointException as error:
        raise CheckpointMismatch(f"{folder}: is of another model or damaged ({_cause(error)})") from error


def _check_names(tensors: Mapping[str, Tensor], stored: set[str], where: str) -> None:
    missing = [name for name in tensors if name not in stored]
    if missing:
        raise CheckpointMismatch(f"{where}: is of another model or other trained parts (no {missing[0]})")


def _cause(error: BaseException) -> str:
    failures = getattr(error, "failures", {})
    first = next(iter(failures.values()), (error,))[0]
    return (str(first) or type(first).__name__).splitlines()[0][:200]
