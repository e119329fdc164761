"""Sharding a model over processes (FSDP2): each holds a shard of weights, gradients, optimizer state and averages.

Modules that are called separately are sharded separately: blocks of the ViT, attentions and MLPs of the text side. All
other parameters belong to the root, whose forward pass is the task's loss.
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
from blip.train.averages import AveragedWeights
from blip_lite.errors import CheckpointError, CheckpointMismatch, EnvironmentProblem


def shard_model(root: nn.Module, device: torch.device) -> None:
    """Shard the parameters of `root` over all processes, in place. Scalars stay whole everywhere."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # keys and values are views of heads; none is changed in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for module in dict.fromkeys(_units(root)):  # encoder and decoder of pre-training share some
        fully_shard(module, mesh=mesh)
        if hasattr(module, "keys_values"):
            register_fsdp_forward_method(module, "keys_values")
    fully_shard(root, mesh=mesh, ignored_params={p for p in root.parameters() if p.dim() == 0})


def _units(root: nn.Module) -> Iterator[nn.Module]:
    for module in root.modules():
        if isinstance(module, VisionTransformer):
            yield from module.blocks
        elif isinstance(module, TextBlock):
            cross = getattr(module, "cross", None)
            yield from (module.attn, module.mlp)
            yield from cross if isinstance(cross, nn.ModuleList) else [] if cross is None else [cross]


def average_unsharded_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average the gradients of unsharded parameters over the processes, as FSDP does for sharded ones."""
    for parameter in parameters:
        if parameter.grad is not None and not distributed.is_sharded(parameter):
            dist.all_reduce(parameter.grad)
            parameter.grad /= distributed.world_size()


@torch.no_grad()
def copy_to_whole(plain: nn.Module | None, model: nn.Module) -> None:
    """Copy all weights of a sharded model into its plain copy on the first process. All processes call this."""
    targets = {} if plain is None else plain.state_dict()
    for name, value in model.state_dict().items():
        whole = cast(Any, value).full_tensor() if distributed.is_sharded(value) else value
        if plain is not None:
            targets[name].copy_(whole)


def named_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedWeights, stored: set[str] | None = None
) -> dict[str, Tensor]:
    """Return all tensors of a run by name, without copying.

    stored: names about to be loaded; optimizer state is created for them, as it exists only after a first gradient.
    """
    tensors = {f"model.{name}": t.detach() for name, t in (*model.named_parameters(), *model.named_buffers())}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = f"optimizer.{names[parameter]}"
            if stored is not None and f"{name}.step" in stored:
                moments = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
                step = torch.tensor(0.0, device=parameter.device if group["fused"] else "cpu")
                optimizer.state[parameter] = {"step": step, **moments}
            tensors |= {f"{name}.{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
    return tensors | {f"average.{name}": value for name, value in average.shadow.items()}


def named_state(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of an unsharded state by the same names. names: trained parameters, in group order."""
    tensors = {f"model.{name}": value for name, value in state["model"].items()}
    for number, moments in state["optimizer"]["state"].items():
        tensors |= {f"optimizer.{names[number]}.{key}": value for key, value in moments.items()}
    return tensors | {f"average.{name}": value for name, value in state["average"].items()}


def copy_from_whole(tensors: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    """Copy unsharded tensors into those in memory, sharded or not."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    _check_names(tensors, set(whole), "the checkpoint")
    for name, tensor in tensors.items():
        value = whole[name].to(tensor.device)
        if isinstance(tensor, DTensor):
            value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
        distributed.local_shard(tensor).copy_(distributed.local_shard(value))


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the shards of every process (torch.distributed.checkpoint). All processes call this."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(tensors), storage_writer=FileSystemWriter(folder))
    except CheckpointException as error:
        raise EnvironmentProblem(f"{folder}: cannot be written ({_cause(error)})") from error


def stored_names(folder: Path) -> set[str]:
    """Return the names of the tensors of `write_shards`. The index is a pickle: read trusted folders only."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    try:
        return set(FileSystemReader(folder).read_metadata().state_dict_metadata)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{folder}: cannot be read ({type(error).__name__})") from error


def read_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors in memory from the shards of any number of processes."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    _check_names(tensors, stored_names(folder), str(folder))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is .*single process")
            load(dict(tensors), storage_reader=FileSystemReader(folder))
    except CheckpointException as error:
        raise CheckpointMismatch(f"{folder}: does not match this model, or is damaged ({_cause(error)})") from error


def _check_names(tensors: Mapping[str, Tensor], stored: set[str], where: str) -> None:
    missing = [name for name in tensors if name not in stored]
    if missing:
        raise CheckpointMismatch(f"{where}: does not match this model or its trainable parameters (no {missing[0]})")


def _cause(error: BaseException) -> str:
    failures = getattr(error, "failures", {})
    first = next(iter(failures.values()), (error,))[0]
    return (str(first) or type(first).__name__).splitlines()[0][:200]
