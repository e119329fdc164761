"""Flags from files: `--config FILE`, `--set NAME=VALUE` and `--print-config` for every verb that takes images.

Keys are the flags' long names with underscores. File first, then --set, then the flags themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blip_lite.errors import ConfigError, UnknownKey, UsageError

NOT_SETTINGS = ("inputs", "debug")


@dataclass
class Settings:
    """What of a command line is about settings, and the rest of it."""

    file: Path | None = None
    sets: list[str] = field(default_factory=list)
    show: bool = False
    rest: list[str] = field(default_factory=list)

    def values(self, known: Iterable[str]) -> dict[str, Any]:
        """The settings by name; unknown names are errors with file and line."""
        names = [name for name in known if name not in NOT_SETTINGS]
        values = {} if self.file is None else _read(self.file, names)
        for text in self.sets:
            name, equals, value = text.partition("=")
            if not equals:
                raise UsageError(f"--set {text}; must be NAME=VALUE")
            if name not in names:
                raise UnknownKey(name, names)
            values[name] = _scalar(value)
        return values


def take(argv: Sequence[str]) -> Settings:
    """Splits the settings off a command line."""
    found, args = Settings(), iter(argv)
    for arg in args:
        if arg == "--":
            found.rest += [arg, *args]
        elif arg == "--print-config":
            found.show = True
        elif arg.partition("=")[0] in ("--config", "--set"):
            flag, equals, value = arg.partition("=")
            text = value if equals else next(args, None)
            if text is None:
                raise UsageError(f"{flag}; must be followed by a value")
            if flag == "--set":
                found.sets.append(text)
            else:
                found.file = Path(text)
        else:
            found.rest.append(arg)
    return found


def to_yaml(values: Mapping[str, Any]) -> str:
    """Settings as `--config` takes them; what was not given is left out."""
    import yaml

    kept = {k: str(v) if isinstance(v, Path) else v for k, v in values.items() if v is not None}
    shown = {k: v for k, v in kept.items() if k not in NOT_SETTINGS}
    return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))


def _read(path: Path, names: Sequence[str]) -> dict[str, Any]:
    import yaml

    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"--config {path}; {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of flag names to values")
    for key, _ in node.value if node is not None else ():
        if key.value not in names:
            raise ConfigError(f"{path}:{key.start_mark.line + 1}: {UnknownKey(str(key.value), names)}")
    return values


def _scalar(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
