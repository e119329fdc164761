"""State dicts as training programs save them: inside other dicts, and with the prefixes of wrappers in their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from blip.checkpoint.tables import IMAGE_TOWERS
from blip_lite.errors import CheckpointError, CheckpointMismatch

logger = logging.getLogger(__name__)

# Names of the entry that holds the weights, first choice first; averages come last, since few programs load them.
ENTRIES = (
    *("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights", "params"),
    *("ema", "model_ema", "ema_model", "ema_state_dict", "model_ema_state_dict", "state_dict_ema", "shadow"),
)
# Names that torch's wrappers insert: DataParallel and DDP, compile, FSDP, activation checkpointing.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def find_state(content: object, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the content of a pickle: the content itself, or the entry of a known name.

    Raises CheckpointError if there is none, or one value of it is not a tensor.
    """
    while isinstance(content, Mapping) and content and not any(isinstance(x, Tensor) for x in content.values()):
        inner = [key for key, value in content.items() if isinstance(value, Mapping) and value]
        known = [key for key in ENTRIES if key in inner]
        if not known:
            break
        if len(known) > 1:
            logger.warning("%s: holds '%s'; '%s' is read", path, "' and '".join(known), known[0])
        content = content[known[0]]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: contains no state dict")
    names = [str(name) for name in content]
    if not any(isinstance(value, Tensor) for value in content.values()):
        wrong = next(name for name in names)
        raise CheckpointError(
            f"{path}: '{wrong}' is not a tensor; must be a state dict, or hold one as {', '.join(ENTRIES[:3])} or ema"
        )
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: '{name}' is not a tensor; a state dict maps names to tensors")
    return dict(content)


def without_wrappers(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state with the names that the modules have without torch's wrappers."""
    renamed = {WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    if len(renamed) < len(state):
        raise CheckpointMismatch(f"{path}: two tensors have the same name without the prefixes of wrappers")
    return renamed


def without_prefix(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state without the name under which another module holds the BLIP model, such as `model.` (Lightning).

    Tensors beside the model keep their names and are refused later. Raises CheckpointMismatch if it holds several.
    """
    starts = tuple(IMAGE_TOWERS.values())
    if any(name.startswith(starts) for name in state):
        return dict(state)
    tower = re.compile(rf"(.+?\.)(?:{'|'.join(map(re.escape, starts))})")
    prefixes = sorted({match[1] for match in map(tower.match, state) if match})
    if len(prefixes) > 1:
        raise CheckpointMismatch(f"{path}: holds {len(prefixes)} models ({', '.join(prefixes)}…); save one of them")
    return {name.removeprefix(prefixes[0]): tensor for name, tensor in state.items()} if prefixes else dict(state)
