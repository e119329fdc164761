"""Texts and answers of flags: given one by one, in files, or as a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blip_lite.errors import UsageError
from blip_lite.text_files import load_json, read_text


def read_texts(texts: Sequence[str], file: Path | None, flag: str = "--texts") -> list[str]:
    """Return texts given one by one, and the lines of a file that are not blank."""
    if file is None:
        return list(texts)
    try:
        lines = read_text(file).splitlines()
    except OSError as error:
        raise UsageError(f"{flag} {file}; {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{flag} {file}; must be UTF-8 text") from error
    return [*texts, *(line for line in lines if line.strip())]


def closed_answers(answers: str | None, mode: str | None) -> list[str] | None:
    """Return the list of answers to rank, None if answers are generated."""
    if answers is None:
        if mode == "rank":
            raise UsageError("--mode rank needs the answers to choose from; give --answers FILE or --answers a,b,c")
        return None
    if mode == "generate":
        raise UsageError("--answers with --mode generate; must be used with --mode rank")
    file = Path(answers)
    if file.suffix == ".json":
        lines = _json_list(file)
    elif file.is_file() or file.suffix == ".txt":
        lines = read_texts((), file, "--answers")
    else:
        lines = answers.split(",")
    closed = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not closed:
        raise UsageError(f"--answers {answers}; has no answers, must be a file (one per line) or a,b,c")
    return closed


def _json_list(file: Path) -> list[str]:
    """Return the answers of a JSON list, the original's format."""
    try:
        values = load_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"--answers {file}; {' '.join(str(error).split())}") from error
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UsageError(f"--answers {file}; must be a JSON list of texts")
    return values
