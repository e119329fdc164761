"""Texts as sidecar files: `.txt` or `.xmp`, next to each image or in a folder that mirrors the tree."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from blip.io import atomic
from blip.io.paths import safe_path
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, UsageError
from blip_lite.image import EXTENSIONS

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_META = "adobe:ns:meta/"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecars:
    """Location and format of sidecars. `folder` mirrors the inputs' keys; extension ".xmp" writes `dc:description`."""

    extension: str = ".txt"
    folder: Path | None = None
    existing: Literal["skip", "error", "overwrite", "append"] = "skip"
    prefix: str = ""
    suffix: str = ""

    def path(self, sample: Sample) -> Path:
        """Return the sidecar of an input: the image's name with the sidecar's extension."""
        if self.folder is not None:
            return self.folder / _with_extension(safe_path(sample.key), self.extension)
        if sample.path is None:
            raise UsageError(f"{sample.key}: is not a file, so it cannot have a sidecar; use --sidecar-dir DIR")
        return _with_extension(sample.path, self.extension)

    def must_write(self, sample: Sample) -> bool:
        """Whether the sidecar is to be written; raises `UsageError` if an existing file is an error."""
        path = self.path(sample)
        if self.existing in ("overwrite", "append") or not path.exists():
            return True
        if self.existing == "skip":
            return False
        raise UsageError(f"{path} exists; use --skip-existing, --overwrite or --append")

    def write(self, sample: Sample, text: str) -> Path:
        """Write the sidecar of an input in one step and return its path. The image is never changed."""
        path = self.path(sample)
        text = self.prefix + text + self.suffix
        old = _old(path) if self.existing == "append" or self.extension == ".xmp" else None
        if self.extension == ".xmp":
            atomic.write_bytes(path, xmp(text, old, str(path), append=self.existing == "append"))
            return path
        before = (old or b"").decode("utf-8", "surrogateescape")
        before += "\n" if before and not before.endswith("\n") else ""
        atomic.write_bytes(path, f"{before}{text}\n".encode("utf-8", "surrogateescape"))
        return path


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


def _with_extension(path: Path, extension: str) -> Path:
    """Replace an image's extension only: `scan.2024` is a complete name."""
    stem = path.name[: -len(path.suffix)] if path.suffix.lower() in EXTENSIONS else path.name
    return path.with_name(stem + extension)
