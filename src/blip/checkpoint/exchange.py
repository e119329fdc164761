"""Import a model under a name, convert it to another layout, compare two models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from blip.checkpoint import files
from blip.checkpoint.catalogue import BY_NAME
from blip.checkpoint.load import read_weights
from blip.checkpoint.locate import CONFIG, imported, imported_dir, locate
from blip.checkpoint.quantize import quantize
from blip.checkpoint.tables import Layout, require_export
from blip.io.atomic import atomic_folder
from blip.io.formats import WEIGHTS, require_ending, require_folder
from blip_lite.config import BlipConfig
from blip_lite.errors import ConfigError, UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Differences between two models; `values` holds the largest absolute difference of each unequal tensor."""

    config: dict[str, tuple[Any, Any]]
    only_first: list[str]
    only_second: list[str]
    shapes: dict[str, tuple[list[int], list[int]]]
    values: dict[str, float]
    equal: int

    @property
    def same(self) -> bool:
        return not (self.config or self.only_first or self.only_second or self.shapes or self.values)


def convert(
    source: str | Path,
    output: Path,
    layout: Layout,
    *,
    int8: bool = False,
    overwrite: bool = False,
    offline: bool | None = None,
) -> BlipConfig:
    """Write `source` in another layout: a folder of this package, a Transformers folder, or a file of the original."""
    if layout not in get_args(Layout):
        raise UsageError(f"--to {layout}; must be one of {', '.join(get_args(Layout))}")
    if int8 and layout != "blip":
        raise UsageError("--int8 requires --to blip; the other layouts cannot hold scales")
    if layout == "original":
        require_ending(output, WEIGHTS)
        if output.is_dir() or (output.exists() and not overwrite):
            hint = "" if output.is_dir() else " or give --overwrite"
            raise UsageError(f"{output} exists; choose another name{hint}")
        _require_export(source, layout)
        weights = read_weights(source, offline=offline)
        files.write_original(output, weights.state, weights.config, weights.training)
        return weights.config
    require_folder(output)
    _require_export(source, layout)
    with atomic_folder(output, CONFIG, overwrite=overwrite) as folder:
        weights = read_weights(source, offline=offline)
        if layout == "hf":
            files.write_hf_folder(folder, weights.state, weights.config, weights.vocab)
        else:
            state = quantize(weights.state) if int8 else weights.state
            files.write_folder(folder, state, weights.config, weights.vocab)
        files.copy_terms(weights.folder, folder)
    return weights.config


def _require_export(source: str | Path, layout: Layout) -> None:
    """Raise ConfigError if the config of a local folder shows that the layout cannot hold its model."""
    path = locate(source).path
    if path is not None and (path / CONFIG).is_file():
        config, _ = files.read_config(path)
        if config is not None:
            require_export(layout, config)


def import_model(source: Path, name: str | None = None) -> Path:
    """Import a file or folder as a model folder, so that `load(name)` finds it. Returns the folder."""
    name = name or (source.name if source.is_dir() else source.stem)
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"--as '{name}'; must be a file name without '/'")
    if name in BY_NAME:
        raise UsageError(f"--as '{name}'; the catalogue has a model of this name, choose another")
    if imported(name):
        raise UsageError(f"model '{name}' is imported already; 'blip models rm {name}' removes it")
    if not source.exists():
        raise ConfigError(f"{source}: no such file or folder")
    folder = imported_dir() / name
    convert(source, folder, "blip")
    return folder


def compare(first: str | Path, second: str | Path) -> Comparison:
    """Compare config fields, names, shapes and values of two models in any layout."""
    a, b = read_weights(first), read_weights(second)
    both = [name for name in a.state if name in b.state]
    shapes = {
        name: (list(a.state[name].shape), list(b.state[name].shape))
        for name in both
        if a.state[name].shape != b.state[name].shape
    }
    largest = {name: _largest_difference(a.state[name], b.state[name]) for name in both if name not in shapes}
    fields_a, fields_b = _flat(a.config), _flat(b.config)
    return Comparison(
        config={key: (fields_a[key], fields_b[key]) for key in fields_a if fields_a[key] != fields_b[key]},
        only_first=[name for name in a.state if name not in b.state],
        only_second=[name for name in b.state if name not in a.state],
        shapes=shapes,
        values={name: value for name, value in largest.items() if value != 0},
        equal=sum(value == 0 for value in largest.values()),
    )


def _largest_difference(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max()) if a.numel() else 0.0


def _flat(config: BlipConfig) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in dataclasses.asdict(config).items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat
