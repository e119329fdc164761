"""Convert state dicts between the layouts blip, original and hf, by the tables of `tables.py`.

Strict in both directions: unknown and missing keys raise CheckpointMismatch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from blip.checkpoint import tables
from blip.checkpoint.tables import Layout
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointMismatch

State = dict[str, Tensor]
QUEUE_SIZE = 57600  # of all configs of the original
DEFAULT_TEMPERATURE = 0.07  # initial value in the original; its matcher and Transformers store none


def detect_layout(keys: Iterable[str]) -> Layout:
    """The layout whose image tower has these names; CheckpointMismatch if there is none."""
    names = list(keys)
    for layout, prefix in tables.IMAGE_TOWERS.items():
        if any(name.startswith(prefix) for name in names):
            return layout
    first = ", ".join(names[:3]) or "no keys"
    raise CheckpointMismatch(
        f"not BLIP weights ({first}): no key starts with {', '.join(tables.IMAGE_TOWERS.values())}"
    )


def to_blip(
    state: Mapping[str, Tensor], config: BlipConfig, layout: Layout, *, strict: bool = True
) -> tuple[State, State]:
    """Weights in the blip layout, and the training state of the file (`momentum.*`, queues; often empty).

    Shared tensors of pre-training are returned under both names. Only parts of fused tensors are copied; dtypes are
    kept. With layout "blip" only missing shared names are added: `build` checks the names.
    strict=False: unknown keys are dropped and missing ones stay missing, with a warning.
    """
    if layout == "blip":
        return _with_shared(dict(state), config), {}
    left = normalize_hf(state) if layout == "hf" else dict(state)
    fold_aliases(left)
    _drop_derived(left, config)
    _restore_shared(left, config)
    table = tables.expand(tables.rules(config, layout), config)
    training = _take(left, tables.momentum_names(config)) if layout == "original" else {}
    if config.parts.matching:
        training |= {name: left.pop(other) for other, name in tables.QUEUES.items() if other in left}
    optional = {tables.TEMPERATURE.other}
    missing = [name for name in table if name not in left and name not in optional]
    unexpected = [name for name in left if name not in table]
    if missing or unexpected:
        error = mismatch(f"{config.family} weights in the {layout} layout", missing, unexpected)
        if strict:
            raise error
        warnings.warn(str(error), stacklevel=2)
    weights = _take(left, table)
    if config.parts.matching:
        weights.setdefault("temperature", torch.tensor(DEFAULT_TEMPERATURE))
    return _with_shared(weights, config), training


def from_blip(
    state: Mapping[str, Tensor], config: BlipConfig, layout: Layout, training: Mapping[str, Tensor] | None = None
) -> State:
    """Weights of the blip layout in another one, with all names that its files have.

    training: training state as returned by `to_blip`; only the original layout can hold it.
    Raises ConfigError if the layout cannot hold this model.
    """
    if layout == "blip":
        return dict(state)
    tables.require_export(layout, config)
    left = _with_shared(dict(state), config)
    result = _give(left, tables.expand(tables.rules(config, layout), config))
    if layout == "hf":
        left.pop("temperature", None)  # has no counterpart there
    if left:
        raise mismatch(f"{config.family} weights for the {layout} layout", [], list(left))
    if layout == "original" and config.parts.matching:
        result |= _training_to_original(training or {}, result, config)
    result |= {alias: result[name] for alias, name in tables.ALIASES if name in result}
    return result | _derived(result) if layout == "original" else result


def mismatch(what: str, missing: Iterable[str], unexpected: Iterable[str]) -> CheckpointMismatch:
    """Error for missing and unexpected keys: counts and the first few names."""
    facts = [_first_few(kind, list(names)) for kind, names in (("missing", missing), ("unexpected", unexpected))]
    return CheckpointMismatch(f"{what}: {'; '.join(fact for fact in facts if fact)}")


def _first_few(kind: str, names: list[str], count: int = 3) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > count else ""
    return f"{len(names)} {kind} key{'s' if len(names) > 1 else ''} ({', '.join(names[:count])}{more})"


def normalize_hf(state: Mapping[str, Tensor]) -> State:
    """A Transformers state dict without the extra parts of its deprecated `BlipModel`, its text model as encoder."""
    return {
        "text_encoder." + name.removeprefix("text_model.") if name.startswith("text_model.") else name: tensor
        for name, tensor in state.items()
        if not name.startswith(tables.FOREIGN)
    }


def fold_aliases(state: State, aliases: Sequence[tuple[str, str]] = tables.ALIASES, where: str = "") -> None:
    """Move each tensor stored under an alias to its name; CheckpointMismatch if both exist and differ."""
    for alias, name in aliases:
        if alias in state:
            tensor = state.pop(alias)
            _require_equal(where + alias, tensor, name, state.setdefault(name, tensor))


def _take(left: State, table: Mapping[str, tuple[str, ...]]) -> State:
    """Move the tensors named in `table` out of `left`, renamed; fused tensors are split."""
    result: State = {}
    for other, names in table.items():
        if other not in left:
            continue
        tensor = left.pop(other)
        if len(names) == 1:
            result[names[0]] = tensor
        elif not tensor.dim() or len(tensor) % len(names):
            raise CheckpointMismatch(f"{other} is {list(tensor.shape)}; its rows must be a multiple of {len(names)}")
        else:  # cloned, so that no weight keeps another one's memory alive
            result |= zip(names, (part.clone() for part in tensor.chunk(len(names))), strict=True)
    return result


def _give(left: State, table: Mapping[str, tuple[str, ...]]) -> State:
    """Inverse of `_take`: move tensors out of `left`, renamed and fused."""
    missing = [name for names in table.values() for name in names if name not in left]
    if missing:
        raise mismatch("weights in the blip layout", missing, [])
    parts = {other: [left.pop(name) for name in names] for other, names in table.items()}
    return {other: tensors[0] if len(tensors) == 1 else torch.cat(tensors) for other, tensors in parts.items()}


def _drop_derived(left: State, config: BlipConfig) -> None:
    for name in tables.DERIVED:
        ids = left.pop(name, None)
        if ids is None or ids.is_meta:
            continue
        if ids.flatten().tolist() != list(range(config.text.max_length)):
            raise CheckpointMismatch(f"{name}: must be 0..{config.text.max_length - 1}")


def _restore_shared(left: State, config: BlipConfig) -> None:
    """Store tensors shared in pre-training under both names; CheckpointMismatch if both exist and differ."""
    if not config.parts.shared:
        return
    (_, encoder), (_, decoder) = tables.ENCODER, tables.DECODER
    rules = (*tables.REST, *tables.CROSS)
    for name in tables.expand([rule.under(*tables.ENCODER) for rule in rules], config):
        shared = decoder + name.removeprefix(encoder)
        if name in left or shared in left:
            tensor = left.setdefault(name, left.get(shared, torch.empty(0)))
            _require_equal(name, tensor, shared, left.setdefault(shared, tensor))


def _with_shared(state: State, config: BlipConfig) -> State:
    """The state with both names of a shared tensor referring to one object; the decoder's name is the stored one."""
    for encoder, decoder in tables.shared_names(config).items():
        if decoder in state:
            state[encoder] = state[decoder]
        elif encoder in state:
            state[decoder] = state[encoder]
    return state


def _require_equal(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor is other or tensor.is_meta or torch.equal(tensor, other):
        return
    raise CheckpointMismatch(f"{name} and {other_name}: must be equal, they are one tensor in BLIP")


def _derived(state: Mapping[str, Tensor]) -> State:
    ids = {}
    for name in tables.DERIVED:
        positions = state.get(name.replace("position_ids", "position_embeddings.weight"))
        if positions is not None:
            ids[name] = torch.arange(len(positions), device=positions.device)[None]
    return ids


def _training_to_original(training: Mapping[str, Tensor], weights: State, config: BlipConfig) -> State:
    """Momentum weights and queues, which the original's training classes require in a file.

    Missing ones are as at the start of training: copies of the weights, random unit features (seeded), no ids.
    """
    pointer = "queue_ptr" if config.parts.shared else "ptr_queue"
    queues = {other: name for other, name in tables.QUEUES.items() if name != "queue_ptr"} | {pointer: "queue_ptr"}
    left = dict(training)
    result = {other: left.pop(name) for other, name in queues.items() if name in left}
    if any(name.startswith("momentum.") for name in left):
        result |= _give(left, tables.momentum_names(config))
    if left:
        raise mismatch("training state", [], list(left))
    for prefix, momentum_prefix in tables.MOMENTUM.values():
        for name in weights:
            if name.startswith(f"{prefix}."):
                result.setdefault(momentum_prefix + name.removeprefix(prefix), weights[name])
    size = next((result[name].shape[1] for name in ("image_queue", "text_queue") if name in result), QUEUE_SIZE)
    generator = torch.Generator().manual_seed(0)
    for name in ("image_queue", "text_queue"):
        features = torch.randn(config.proj_width, size, generator=generator)
        result.setdefault(name, features / features.norm(dim=0, keepdim=True))
    if not config.parts.shared:
        result.setdefault("idx_queue", torch.full((1, size), -100))
    result.setdefault(pointer, torch.zeros(1, dtype=torch.long))
    return result
