"""Names on disk: brace expansion, globs, and walking folders in a fixed order. Nothing is opened."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from blip_lite import image
from blip_lite.errors import UsageError

VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOptions:
    """Selection of the files of a folder; the fields are the flags of the same names."""

    recursive: bool = True
    hidden: bool = False
    globs: Sequence[str] = ()
    exts: Sequence[str] = ()

    @property
    def suffixes(self) -> tuple[str, ...]:
        return tuple("." + ext.lower().lstrip(".") for ext in self.exts) or image.EXTENSIONS

    def accepts(self, relative: str) -> bool:
        """Whether extension and globs allow a file that was found in a folder or shard."""
        return relative.lower().endswith(self.suffixes) and glob_allows(relative, self.globs)


def is_url(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def key_of(path: str) -> str:
    """A path as a key: `/` separators, valid Unicode."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return text if os.sep == "/" else text.replace(os.sep, "/")


def posix_path(name: str) -> str | None:
    """Return a relative path that was written on Windows with `/` separators, None for a drive or a network share."""
    return None if re.match(r"[A-Za-z]:|[\\/]", name) else name.replace("\\", "/")


def image_stem(path: PurePath) -> str:
    """Return the name of an image without its ending; `scan.2024` is a complete name."""
    return path.name[: -len(path.suffix)] if path.suffix.lower() in image.EXTENSIONS else path.name


def safe_path(key: str, *, hidden: bool = True) -> Path:
    """Return a key as a relative path that stays inside its folder; without `hidden`, leading dots are removed."""
    parts = [re.sub(r'[\0-\x1f:*?"<>|\\]', "_", part) for part in key.split("/")]
    parts = parts if hidden else [part.lstrip(".") for part in parts]
    return Path(*[part for part in parts if part not in ("", ".", "..")] or ["image"])


def expand_name(name: str) -> list[str]:
    """The name itself if it exists or is a URL, else its brace expansion and the sorted files that match each part."""
    if os.path.lexists(name) or is_url(name):
        return [name]
    return [path for part in expand_braces(name) for path in sorted(glob.glob(part)) or [part]]


def expand_braces(text: str) -> list[str]:
    """Expand `a-{08..10}.tar` to a-08.tar, a-09.tar, a-10.tar; `{x,y}` to both; several braces to all combinations."""
    match = _RANGE.search(text)
    if match is None:
        return [text]
    first, last, names = match.groups()
    if names is not None:
        middles = names.split(",")
    else:
        width = max(len(first), len(last)) if first[0] == "0" or last[0] == "0" else 0
        step = 1 if int(first) <= int(last) else -1
        middles = [str(i).zfill(width) for i in range(int(first), int(last) + step, step)]
    before, after = text[: match.start()], expand_braces(text[match.end() :])
    return [before + middle + rest for middle in middles for rest in after]


def glob_allows(relative: str, globs: Sequence[str]) -> bool:
    """Apply globs as ripgrep does: the last one that matches the path or a folder above it decides; `!` excludes."""
    parts = PurePosixPath(relative).parts
    prefixes = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    for pattern in reversed(globs):
        includes = not pattern.startswith("!")
        rule = _glob_pattern(pattern.removeprefix("!"))
        if any(rule.fullmatch(prefix) for prefix in prefixes):
            return includes
    return not any(not pattern.startswith("!") for pattern in globs)


def _glob_pattern(pattern: str) -> re.Pattern[str]:
    pattern = pattern if "/" in pattern else "**/" + pattern
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.strip("/"))
    rule = "".join(
        tokens.get(p) or (p.replace("[!", "[^", 1) if re.fullmatch(r"\[.+\]", p) else re.escape(p)) for p in parts
    )
    try:
        return re.compile(rule, re.DOTALL)
    except re.error as error:
        raise UsageError(f"--glob '{pattern}': not a valid pattern ({error})") from error


OnSkip = Callable[[str, str], None]  # receives a path and the reason why it is not read


def warn_skipped(path: str, reason: str) -> None:
    """Note a path that is left out."""
    warnings.warn(f"{key_of(path)}: {reason}", stacklevel=2)


def walk(folder: str, options: ListOptions, on_skip: OnSkip = warn_skipped) -> Iterator[str]:
    """Yield relative paths of the accepted files below a folder, in byte order.

    `on_skip` receives what cannot be read although its name or place suggests that it should be: folders without
    permission, named pipes, folders with the name of an image that hold none. Links are followed, except into a folder
    above them.
    """
    yield from _walk(folder, "", options, frozenset(), on_skip)


def _walk(top: str, relative: str, options: ListOptions, parents: frozenset[str], on_skip: OnSkip) -> Iterator[str]:
    folder = os.path.join(top, relative) if relative else top
    try:
        with os.scandir(folder) as scan:
            entries = [(e.name, _safely(e.is_dir), e.is_symlink(), _safely(e.is_file)) for e in scan]
    except OSError as error:
        on_skip(folder, f"folder cannot be read ({error.strerror or error})")
        return
    parents |= {os.path.realpath(folder)}
    for name, is_folder, is_link, is_file in sorted(entries, key=lambda e: os.fsencode(e[0]) + (b"/" if e[1] else b"")):
        path = os.path.join(relative, name)
        whole = os.path.join(top, path)
        if name.startswith(".") and not options.hidden:
            continue
        accepted = options.accepts(path.replace(os.sep, "/"))
        if is_folder:
            number = 0
            if options.recursive and not (is_link and os.path.realpath(whole) in parents):
                for number, item in enumerate(_walk(top, path, options, parents, on_skip), 1):  # noqa: B007
                    yield item
            if accepted and not number:
                on_skip(whole, "a folder, not a file")
        elif accepted and (is_file or is_link):  # a broken link fails when it is read
            yield path
        elif accepted:
            on_skip(whole, "not a file (a pipe, socket or device)")


def _safely(test: Callable[[], bool]) -> bool:
    """Return False if the test fails: links in a circle are neither file nor folder."""
    try:
        return test()
    except OSError:
        return False
