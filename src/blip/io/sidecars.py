"""Texts as sidecar files: `.txt`, `.caption` or `.xmp`, next to each image or in a folder that mirrors the tree.

A sidecar has the name of its image with another ending: photo.txt. Where other images share that name, each sidecar
keeps the image's ending: photo.jpg.txt beside photo.png.txt.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from blip.io import atomic
from blip.io.lock import exclusive
from blip.io.paths import image_stem, safe_path
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, UsageError
from blip_lite.image import EXTENSIONS

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_META = "adobe:ns:meta/"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


LOCK_SECONDS = 60.0  # to wait for another run that adds to the same sidecar
ENDINGS = (".txt", ".caption", ".xmp")


def sidecar_ending(text: str, flag: str) -> str:
    """Return the ending of sidecars that a flag names, with or without its dot."""
    ending = f".{text.removeprefix('.')}".lower()
    if ending not in ENDINGS:
        raise UsageError(f"{flag} {text}; must be one of {', '.join(ENDINGS)}")
    return ending


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecars:
    """Location and format of sidecars. `folder` mirrors the inputs' keys; extension ".xmp" writes `dc:description`."""

    extension: str = ".txt"
    folder: Path | None = None
    existing: Literal["skip", "error", "overwrite", "append"] = "skip"
    prefix: str = ""
    suffix: str = ""

    def paths(self, samples: Sequence[Sample]) -> dict[str, Path]:
        """Return the sidecar of each input by key. Raises `UsageError` if two images would share one."""
        paths = {sample.key: self.path(sample) for sample in samples}
        images: dict[Path, set[object]] = {}
        for sample in samples:
            images.setdefault(paths[sample.key], set()).add(_identity(sample))
        for sample in samples:
            if len(images[paths[sample.key]]) > 1:
                paths[sample.key] = self._path(sample, whole=True)
        owners: dict[Path, Sample] = {}
        for sample in samples:
            owner = owners.setdefault(paths[sample.key], sample)
            if _identity(owner) != _identity(sample):
                raise UsageError(f"{owner.key} and {sample.key} would share {paths[sample.key]}; rename one of them")
        return paths

    def path(self, sample: Sample) -> Path:
        """Return the sidecar of an input; with the image's ending if other images beside it have its name."""
        return self._path(sample, whole=sample.path is not None and _shares_name(sample.path))

    def _path(self, sample: Sample, *, whole: bool) -> Path:
        if self.folder is not None:
            path = self.folder / safe_path(sample.key)
        elif sample.path is not None:
            path = sample.path
        else:
            raise UsageError(f"{sample.key}: is not a file, so it cannot have a sidecar; use --sidecar-dir DIR")
        return path.with_name((path.name if whole else image_stem(path)) + self.extension)

    def must_write(self, path: Path) -> bool:
        """Whether a sidecar is to be written; raises `UsageError` if an existing file is an error."""
        if self.existing in ("overwrite", "append") or not path.exists():
            return True
        if self.existing == "skip":
            return False
        raise UsageError(f"{path} exists; use --skip-existing, --overwrite or --append")

    def write(self, path: Path, *texts: str) -> None:
        """Write texts to a sidecar in one step, one per line."""
        text = "\n".join(self.prefix + text + self.suffix for text in texts)
        if self.existing != "append" and self.extension != ".xmp":
            atomic.write_bytes(path, _encode(f"{text}\n"))
            return
        with exclusive(path, wait=LOCK_SECONDS):
            old = _old(path)
            if self.extension == ".xmp":
                atomic.write_bytes(path, xmp(text, old, str(path), append=self.existing == "append"))
                return
            before = (old or b"").decode("utf-8", "surrogateescape")
            before += "\n" if before and not before.endswith("\n") else ""
            atomic.write_bytes(path, _encode(f"{before}{text}\n"))


def _shares_name(image: Path) -> bool:
    """Whether another image beside this one differs only in its ending."""
    name = image_stem(image)
    others = (image.with_name(name + ending) for e in EXTENSIONS for ending in (e, e.upper()))
    return any(other != image and other.exists() and not other.samefile(image) for other in others)


def _identity(sample: Sample) -> object:
    return sample.image if sample.path is None else os.path.realpath(sample.path)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def xmp(text: str, old: bytes | None = None, where: str = "xmp", *, append: bool = False) -> bytes:
    """Return an XMP file with the text as `dc:description`; everything else in `old` is kept."""
    text = _NOT_XML.sub("", text)
    root = _parse(old, where) if old else _empty()
    about = root if root.tag == f"{{{_RDF}}}Description" else root.find(f".//{{{_RDF}}}Description")
    if about is None:
        raise BadRecord(where, "is XML but not XMP; move it away to write a new one")
    for element in about.findall(f"{{{_DC}}}description"):
        line = element.find(f".//{{{_RDF}}}li")
        if append and line is not None and line.text:
            text = f"{line.text}\n{text}"
        about.remove(element)
    description = ElementTree.SubElement(about, f"{{{_DC}}}description")
    choice = ElementTree.SubElement(description, f"{{{_RDF}}}Alt")
    ElementTree.SubElement(choice, f"{{{_RDF}}}li", {_LANG: "x-default"}).text = text
    for prefix, name in {"x": _META, "rdf": _RDF, "dc": _DC}.items():
        ElementTree.register_namespace(prefix, name)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _empty() -> ElementTree.Element:
    root = ElementTree.Element(f"{{{_META}}}xmpmeta")
    rdf = ElementTree.SubElement(root, f"{{{_RDF}}}RDF")
    ElementTree.SubElement(rdf, f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": ""})
    return root


def _parse(data: bytes, where: str) -> ElementTree.Element:
    """Parse XML; the file's namespace prefixes are kept, so that text comparisons stay small."""
    try:
        for _, (prefix, name) in ElementTree.iterparse(io.BytesIO(data), ["start-ns"]):
            if prefix and not re.fullmatch(r"ns\d+", prefix):
                ElementTree.register_namespace(prefix, name)
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError) as error:
        raise BadRecord(where, f"is not XML ({error}); move it away to write a new one") from error


def _old(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
