"""Known weights: the original's published files, LAVIS's, Transformers' and the bundled ones, from catalogue.toml.

Needs no torch.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from blip_lite.config import BlipConfig, Family, published_config, random_tiny_config, with_image_size
from blip_lite.errors import UnknownModel, did_you_mean
from blip_lite.text_files import read_text

Source = Literal["url", "hub", "bundled", "random"]
Vit = Literal["base", "large", "tiny"]
BUCKET = "https://storage.googleapis.com/sfr-vision-language-research"
BLIP_URL, LAVIS_URL = f"{BUCKET}/BLIP/models/", f"{BUCKET}/LAVIS/models/BLIP/"
HUB_NOTE = "Transformers layout: LayerNorm eps 1e-5 in the image tower, 384 pixels"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One set of weights. `location`: URL, hub id, folder name among the assets, or "" for random weights."""

    name: str
    family: Family
    location: str
    source: Source = "url"
    vit: Vit = "base"
    image_size: int = 384
    data: str = ""
    scores: str = ""
    licence: str = "BSD-3-Clause"
    megabytes: int | None = None  # approximate size of the download
    sha256: str | None = None
    note: str = ""

    @property
    def file_name(self) -> str:
        """Name of the file on disk (without the asterisk, which not all file systems allow)."""
        return self.location.rsplit("/", 1)[-1].replace("*", "-")

    @property
    def config(self) -> BlipConfig:
        """The published shape; for hub ids and bundled models the config stored with the weights decides."""
        if self.vit == "tiny":
            return random_tiny_config(self.family)
        return with_image_size(published_config(self.family, self.vit), self.image_size)


def _entry(group: str, name: str, fields: dict[str, Any]) -> Entry:
    """Entry of a row; a group sets source and location, and the name the family and ViT unless given."""
    family = fields.pop("family", None) or next(f for f in get_args(Family) if f in name.split("-"))
    file = fields.pop("file", "")
    if group == "hub":
        name = f"Salesforce/{name}"
        return Entry(name=name, family=family, location=name, source="hub", note=HUB_NOTE, **fields)
    if group == "bundled":
        return Entry(name=name, family=family, location=name, source="bundled", vit="tiny", **fields)
    if group == "random":
        return Entry(name=name, family=family, location="", source="random", vit="tiny", **fields)
    location = (LAVIS_URL if group == "lavis" else BLIP_URL) + file
    return Entry(name=name, family=family, location=location, vit="large" if "large" in name else "base", **fields)


_GROUPS = tomllib.loads(read_text(Path(__file__).with_name("catalogue.toml")))
ENTRIES = tuple(_entry(group, name, fields) for group, rows in _GROUPS.items() for name, fields in rows.items())
BY_NAME = {entry.name: entry for entry in ENTRIES}


def models_with(capability: str) -> list[str]:
    """Names of published and bundled models that support a call, the most specialised first."""
    supported = {entry.name: entry.config.capabilities for entry in ENTRIES if _is_main(entry)}
    names = [name for name, calls in supported.items() if capability in calls]
    return sorted(names, key=lambda name: len(supported[name]))


def _is_main(entry: Entry) -> bool:
    published = entry.location.startswith(BLIP_URL) and not entry.name.startswith("legacy-")
    return published or entry.source == "bundled"


def find_file(name: str) -> Entry | None:
    """The entry of a published file, by its name or URL; None for any other."""
    names = ((entry, entry.location) for entry in ENTRIES if entry.source == "url")
    return next((entry for entry, url in names if name in (url, url.rsplit("/", 1)[-1])), None)


def find(name: str) -> Entry:
    """The entry of a name, or of a published file's name or URL; UnknownModel suggests a similar one."""
    if name in BY_NAME:
        return BY_NAME[name]
    file = find_file(name)
    if file is not None:
        return file
    for family in get_args(Family):
        if name == f"random-tiny-{family}":
            return replace(BY_NAME["random-tiny"], name=name, family=family, note="")
    raise UnknownModel(f"unknown model '{name}'{did_you_mean(name, BY_NAME) or ';'} 'blip models' lists all")
