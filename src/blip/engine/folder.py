"""Output folder of work on units: one file per unit, and the settings that made them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from blip.engine.units import Unit
from blip.io.atomic import write_text
from blip.io.lock import exclusive
from blip_lite.errors import UsageError
from blip_lite.text_files import load_json_object, parse_json, read_text

SETTINGS, UNITS = "settings.json", "units.jsonl"
Settings = Mapping[str, Any]  # JSON values


@dataclass(frozen=True)
class OutputFolder:
    """`settings.json`, `units.jsonl`, and a file `NAME.parquet` for each finished unit in `files`.

    A unit is finished when its file exists: files appear complete or not at all.
    """

    path: Path
    files: Path

    def target(self, unit: Unit) -> Path:
        return self.files / f"{unit.name}.parquet"

    def is_done(self, unit: Unit) -> bool:
        return self.target(unit).exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock. Raises `UsageError` if another run works in it."""
        with exclusive(self.path, folder=True):
            yield

    def settings(self) -> dict[str, Any]:
        """Return the settings that made the files. Raises `UsageError` without readable ones."""
        path = self.path / SETTINGS
        try:
            return load_json_object(path)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; must be a folder that a run has written") from error
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from error

    def check_settings(self, settings: Settings) -> None:
        """Record the settings, if no unit is finished. Raises `UsageError` if units were made with others."""
        path = self.path / SETTINGS
        settings = parse_json(json.dumps(settings))  # tuples are lists in JSON
        if path.exists() and any(self.files.glob("*.parquet")):
            try:
                problem = difference(load_json_object(path), settings)
            except ValueError as error:
                raise UsageError(f"{path}: {error}; choose another output") from error
            if problem:
                raise UsageError(f"{self.path}: made with {problem}; choose another output, or the same settings")
        write_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    def assign(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units with the names of their files, the same in every run, and record them.

        Raises `UsageError` if the data of a finished unit have changed since.
        """
        known = {(unit.source, unit.start): unit for unit in self.units()}
        taken = {unit.name for unit in known.values()}
        named = []
        for unit in units:
            before = known.get((unit.source, unit.start))
            if before is not None and self.is_done(before) and replace(unit, name=before.name) != before:
                what = "bytes" if os.path.isfile(unit.source) else "images"
                raise UsageError(
                    f"{unit.source}: {unit.size:,} {what}, but {before.size:,} when {self.target(before)} was written; "
                    "choose another output, or remove that file"
                )
            name = _unused(unit.name, taken) if before is None else before.name
            taken.add(name)
            named.append(replace(unit, name=name))
            known[unit.source, unit.start] = named[-1]
        write_text(self.path / UNITS, "".join(json.dumps(asdict(unit)) + "\n" for unit in known.values()))
        return named

    def units(self) -> list[Unit]:
        """Return the units of all runs in this folder. Raises `UsageError`."""
        path = self.path / UNITS
        try:
            return [Unit(**parse_json(line)) for line in read_text(path).splitlines()] if path.exists() else []
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path}: not a list of units ({error})") from error


def difference(old: Settings, new: Settings) -> str:
    """Return the first setting that differs as "seed 0, not 1", or an empty string.

    Of models (settings with a `sha256`), the weights are compared and the name is shown.
    """
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            if "sha256" not in before:
                inner = difference(before, after)
                return f"{name}.{inner}"
            if before["sha256"] == after.get("sha256"):
                continue
        return f"{name} {_shown(before)}, not {_shown(after)}"
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"'{value.get('name')}' ({value['sha256'][:12]})"
    return json.dumps(value, ensure_ascii=False)


def _unused(name: str, taken: set[str]) -> str:
    number, unused = 1, name
    while unused in taken:
        number += 1
        unused = f"{name}-{number}"
    return unused
