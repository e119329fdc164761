"""State dicts from and to the names of the original and of Transformers, by the tables of `tables.py`.

Strict both ways: a key that no rule names, or a named key that is missing, is a CheckpointMismatch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from blip.checkpoint import tables
from blip.checkpoint.adapt import for_family, nlvr_from_pretrained, resize_positions
from blip.checkpoint.infer import detect_layout, infer_config
from blip.checkpoint.tables import Layout
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointMismatch, ConfigError

__all__ = [
    "Layout",
    "detect_layout",
    "for_family",
    "from_ours",
    "infer_config",
    "nlvr_from_pretrained",
    "resize_positions",
    "to_ours",
]

State = dict[str, Tensor]
DEFAULT_TEMPERATURE = 0.07  # the original's start value; its matcher and Transformers store none


def to_ours(
    state: Mapping[str, Tensor], config: BlipConfig, layout: Layout, *, strict: bool = True
) -> tuple[State, State]:
    """Weights under our names, and the training state of the file (`momentum.*`, queues; often empty).

    Shared tensors of pre-training come under both names. Tensors are not copied except for the pieces of fused ones;
    dtypes are kept. With layout "blip" only left-out shared names are filled in: names are checked on placing.
    strict=False: unknown keys are left out, missing ones stay missing, with a warning.
    """
    if layout == "blip":
        return _with_shared(dict(state), config), {}
    left = without_foreign(state) if layout == "hf" else dict(state)
    _fold_aliases(left)
    _drop_derived(left, config)
    _restore_shared(left, config)
    table = tables.expand(tables.rules(config, layout), config)
    training = _take(left, tables.momentum_names(config)) if layout == "original" else {}
    if config.parts.matching:
        training |= {ours: left.pop(theirs) for theirs, ours in tables.QUEUES.items() if theirs in left}
    optional = {tables.TEMPERATURE.theirs}
    missing = [name for name in table if name not in left and name not in optional]
    unexpected = [name for name in left if name not in table]
    if missing or unexpected:
        problem = mismatch(f"{config.family} weights in the {layout} layout", missing, unexpected)
        if strict:
            raise problem
        warnings.warn(str(problem), stacklevel=2)
    ours = _take(left, table)
    if config.parts.matching:
        ours.setdefault("temperature", torch.tensor(DEFAULT_TEMPERATURE))
    return _with_shared(ours, config), training


def from_ours(
    state: Mapping[str, Tensor], config: BlipConfig, layout: Layout, training: Mapping[str, Tensor] | None = None
) -> State:
    """The same weights under the names of `layout`, with every name that its own files have.

    training: what `to_ours` returned beside the weights; only the original layout can hold it.
    Raises ConfigError when the layout has no place for this model.
    """
    if layout == "blip":
        return dict(state)
    _refuse_unrepresentable(config, layout)
    left = _with_shared(dict(state), config)
    theirs = _give(left, tables.expand(tables.rules(config, layout), config))
    if layout == "hf":
        left.pop("temperature", None)  # has no counterpart there
    if left:
        raise mismatch(f"{config.family} weights for the {layout} layout", [], list(left))
    if layout == "original" and training:
        theirs |= _training_from_ours(training, config)
    for alias, name in tables.ALIASES:
        if name in theirs:
            theirs[alias] = theirs[name]
    if layout == "original":
        theirs |= _derived(theirs)
    return theirs


def mismatch(what: str, missing: Iterable[str], unexpected: Iterable[str]) -> CheckpointMismatch:
    """The error for keys that do not fit, with the first few of each kind and both counts."""
    facts = [_first_few(kind, list(names)) for kind, names in (("missing", missing), ("unexpected", unexpected))]
    return CheckpointMismatch(f"{what}: {'; '.join(fact for fact in facts if fact)}")


def without_foreign(state: Mapping[str, Tensor]) -> State:
    """A Transformers state without the parts of its deprecated `BlipModel`, whose text model is our encoder."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(tables.FOREIGN)}
    return {
        "text_encoder." + name.removeprefix("text_model.") if name.startswith("text_model.") else name: tensor
        for name, tensor in kept.items()
    }


def _first_few(kind: str, names: list[str], count: int = 3) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > count else ""
    return f"{len(names)} {kind} key{'s' if len(names) > 1 else ''} ({', '.join(names[:count])}{more})"


def _take(left: State, table: Mapping[str, tuple[str, ...]]) -> State:
    """Moves what `table` names and `left` has out of it, under our names; fused tensors are cut up."""
    ours: State = {}
    for theirs, names in table.items():
        if theirs not in left:
            continue
        tensor = left.pop(theirs)
        if len(names) == 1:
            ours[names[0]] = tensor
        elif len(tensor) % len(names):
            raise CheckpointMismatch(f"{theirs}: {len(tensor)} rows; must be a multiple of {len(names)}")
        else:  # cloned, so that no weight keeps another one's memory alive
            ours |= zip(names, (piece.clone() for piece in tensor.chunk(len(names))), strict=True)
    return ours


def _give(left: State, table: Mapping[str, tuple[str, ...]]) -> State:
    """Inverse of `_take`: moves our tensors out of `left`, fused where the table says so."""
    missing = [name for names in table.values() for name in names if name not in left]
    if missing:
        raise mismatch("weights under our names", missing, [])
    theirs = {}
    for name, ours in table.items():
        pieces = [left.pop(part) for part in ours]
        theirs[name] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return theirs


def _fold_aliases(left: State) -> None:
    """One name per tensor: the alias goes; it may be the only one that a file has."""
    for alias, name in tables.ALIASES:
        if alias in left:
            _require_equal(alias, left[alias], name, left.setdefault(name, left[alias]))
            del left[alias]


def _drop_derived(left: State, config: BlipConfig) -> None:
    for name in tables.DERIVED:
        ids = left.pop(name, None)
        if ids is None or ids.is_meta:
            continue
        if ids.flatten().tolist() != list(range(config.text.max_length)):
            raise CheckpointMismatch(f"{name}: must be 0..{config.text.max_length - 1}")


def _restore_shared(left: State, config: BlipConfig) -> None:
    """Pre-training files hold shared tensors under both names; either may be left out, both must agree."""
    if not config.parts.shared:
        return
    (_, encoder), (_, decoder) = tables.ENCODER, tables.DECODER
    rules = (*tables.REST, *tables.CROSS)
    for theirs in tables.expand([rule.under(*tables.ENCODER) for rule in rules], config):
        duplicate = decoder + theirs.removeprefix(encoder)
        if theirs in left or duplicate in left:
            first = left.setdefault(theirs, left.get(duplicate, torch.empty(0)))
            _require_equal(theirs, first, duplicate, left.setdefault(duplicate, first))


def _with_shared(state: State, config: BlipConfig) -> State:
    """Both names of a shared tensor hold the same object; the decoder's name is the one stored."""
    for encoder, decoder in tables.shared_names(config).items():
        if decoder in state:
            state[encoder] = state[decoder]
        elif encoder in state:
            state[decoder] = state[encoder]
    return state


def _require_equal(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor is other or tensor.is_meta or torch.equal(tensor, other):
        return
    raise CheckpointMismatch(f"{name} and {other_name}: must be equal, one is a copy of the other")


def _derived(state: Mapping[str, Tensor]) -> State:
    ids = {}
    for name in tables.DERIVED:
        positions = state.get(name.replace("position_ids", "position_embeddings.weight"))
        if positions is not None:
            ids[name] = torch.arange(len(positions), device=positions.device)[None]
    return ids


def _training_from_ours(training: Mapping[str, Tensor], config: BlipConfig) -> State:
    pointer = "queue_ptr" if config.parts.shared else "ptr_queue"
    queues = {theirs: ours for theirs, ours in tables.QUEUES.items() if ours != "queue_ptr"} | {pointer: "queue_ptr"}
    left = dict(training)
    theirs = {name: left.pop(ours) for name, ours in queues.items() if ours in left}
    if any(name.startswith("momentum.") for name in left):
        theirs |= _give(left, tables.momentum_names(config))
    if left:
        raise mismatch("training state", [], list(left))
    return theirs


def _refuse_unrepresentable(config: BlipConfig, layout: Layout) -> None:
    if config.vision.stem != "none":
        raise ConfigError(f"a model with the stem '{config.vision.stem}' cannot have the {layout} layout; use 'blip'")
    if layout == "hf" and config.family not in ("caption", "vqa", "retrieval"):
        raise ConfigError(f"Transformers has no class for '{config.family}' models; only for caption, vqa, retrieval")
    if layout == "hf" and config.family == "vqa" and config.vision.width != config.text.width:
        # its decoder would look at vision.width, ours looks at question states of text.width
        raise ConfigError(
            f"Transformers cannot hold a vqa model with vision.width {config.vision.width} and text.width "
            f"{config.text.width}; they must be equal"
        )
