"""Extension point of training: classes named by their import path, such as `experiments.tiny.losses:Distillation`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from blip_lite.config import from_values
from blip_lite.errors import ConfigError, did_you_mean


def is_import_path(name: str) -> bool:
    return ":" in name


def import_class(path: str, key: str) -> type[Any]:
    """Return the dataclass that `package.module:Class` names; the current folder is searched like an installed package.

    key: config key in error messages. Raises ConfigError.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise ConfigError(f"{key} '{path}': must be package.module:Class")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # a console script does not search the current folder
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            hint = "install it, or run from the folder that contains it"
            raise ConfigError(f"{key} '{path}': no module '{error.name}'; {hint}") from error
        raise ConfigError(f"{key} '{path}': import failed ({error})") from error
    except Exception as error:  # a module of the user can raise anything
        raise ConfigError(f"{key} '{path}': import failed ({type(error).__name__}: {error})") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type) or not is_dataclass(cls):
        names = [name for name, value in vars(module).items() if isinstance(value, type) and is_dataclass(value)]
        raise ConfigError(f"{key} '{path}': no dataclass '{class_name}' in the module{did_you_mean(class_name, names)}")
    return cls


def build_from_path(values: Mapping[str, Any], key: str) -> Any:  # Any: the class is found at run time
    """Build an object from its options, of which `class` is the import path of its dataclass. Raises ConfigError."""
    path = values.get("class")
    if not isinstance(path, str):
        raise ConfigError(f"{key}.class: missing; must be package.module:Class")
    options = {name: value for name, value in values.items() if name != "class"}
    return from_values(import_class(path, f"{key}.class"), options, f"{key}.")
