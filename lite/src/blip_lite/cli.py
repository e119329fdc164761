"""`blip-lite caption|ask|match`: exported models on the command line. `blip` does more, with the same flags."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from blip_lite import __version__
from blip_lite.errors import BlipError, UnreadableImage, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip_lite.model import Model

Opened = tuple[str, "Image"]
Describe = Callable[["Model", Sequence[Opened], argparse.Namespace], Iterable[list[list[str]]]]
BATCH = 8


class _Parser(argparse.ArgumentParser):
    """What is wrong with the arguments is one line, as every error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; '{self.prog} -h' lists all flags")


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code: 0 done, 1 some inputs failed, 2 usage, 3 model, 4 environment."""
    given = sys.argv[1:] if argv is None else argv
    try:
        return _run(_parser().parse_args(given))
    except BlipError as error:
        if "--debug" in given:
            traceback.print_exc()
        print(f"blip-lite: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("blip-lite: error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> _Parser:
    parser = _Parser(prog="blip-lite", description="Captions, answers and matches without torch.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    caption = _verb(verbs, "caption", "describe images", _captions)
    caption.add_argument("--beams", type=_beams, default=3, help="1 is greedy")
    caption.add_argument("--prompt", help="text the caption goes on from")
    ask = _verb(verbs, "ask", "answer questions about images", _answers)
    ask.add_argument("-q", "--question", action="append", required=True, help="may be given again")
    ask.add_argument("--answers", type=_closed, help="the only answers allowed: a,b,c")
    match = _verb(verbs, "match", "score texts against images: itm is a probability, itc a cosine", _matches)
    match.add_argument("-t", "--text", action="append", required=True, help="may be given again")
    return parser


def _verb(verbs: argparse._SubParsersAction[_Parser], name: str, what: str, describe: Describe) -> _Parser:
    verb = verbs.add_parser(name, help=what, description=what)
    verb.add_argument("inputs", nargs="+", metavar="INPUT", help="image files and folders")
    verb.add_argument("-m", "--model", help="a folder that `blip export` wrote; default BLIP_MODEL, else tiny")
    verb.add_argument("--threads", type=_threads, help="default: the physical cores")
    verb.add_argument("--debug", action="store_true", help="tracebacks")
    verb.set_defaults(describe=describe)
    return verb


def _beams(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 32):
        raise argparse.ArgumentTypeError(f"{text}; must be an integer from 1 to 32")
    return int(text)


def _threads(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text}; must be an integer of at least 1")
    return int(text)


def _closed(text: str) -> list[str]:
    answers = [answer.strip() for answer in text.split(",") if answer.strip()]
    if not answers:
        raise argparse.ArgumentTypeError(f"'{text}' holds no answer; must be a,b,c")
    return answers


def _run(arguments: argparse.Namespace) -> int:
    from blip_lite.onnx_backend import load

    keys = list(_files(arguments.inputs))
    if not keys:
        raise UsageError("no images found")
    model = load(arguments.model, threads=arguments.threads)
    failed = 0
    for start in range(0, len(keys), BATCH):
        good: list[Opened] = []
        for key in keys[start : start + BATCH]:
            try:
                good.append((key, _read(key)))
            except UnreadableImage as error:
                print(error, file=sys.stderr)
                failed += 1
        rows = arguments.describe(model, good, arguments) if good else []
        for (key, _), cells in zip(good, rows, strict=True):
            for row in cells:
                print("\t".join(" ".join(cell.split()) for cell in (row if len(keys) == 1 else [key, *row])))
        sys.stdout.flush()
    return 1 if failed else 0


def _files(inputs: Iterable[str]) -> Iterator[str]:
    """Files as they are given; of folders the images in them, in byte order, hidden names left out."""
    from blip_lite.image import EXTENSIONS

    for one in inputs:
        if not Path(one).is_dir():
            yield one
            continue
        found = (path for path in Path(one).rglob("*") if path.suffix.lower() in EXTENSIONS)
        files = (path.relative_to(one) for path in found if _may_be_image(path))
        kept = (path for path in files if not any(name.startswith(".") for name in path.parts))
        yield from (str(Path(one) / path) for path in sorted(kept, key=os.fsencode))


def _may_be_image(path: Path) -> bool:
    """A file, or what will be told to be none; not a folder, nor a pipe, which would be waited for."""
    return os.path.isfile(path) or not os.path.exists(path)


def _read(key: str) -> Image:
    from blip_lite.image import read

    return read(key)


def _captions(model: Model, good: Sequence[Opened], arguments: argparse.Namespace) -> Iterable[list[list[str]]]:
    found = model.caption([image for _, image in good], beams=arguments.beams, prompt=arguments.prompt)
    return [[[one.text]] for one in found]


def _answers(model: Model, good: Sequence[Opened], arguments: argparse.Namespace) -> Iterable[list[list[str]]]:
    asked = arguments.question
    for _, image in good:
        found = model.answer([image] * len(asked), asked, answers=arguments.answers)
        yield [[question, one.text] for question, one in zip(asked, found, strict=True)]


def _matches(model: Model, good: Sequence[Opened], arguments: argparse.Namespace) -> Iterable[list[list[str]]]:
    found = model.match([image for _, image in good], arguments.text)
    assert found.itm is not None and found.itc is not None
    for itm, itc in zip(found.itm, found.itc, strict=True):
        yield [
            [text, f"{a:.4f}", f"{b:.4f}"]
            for text, a, b in zip(arguments.text, itm.tolist(), itc.tolist(), strict=True)
        ]
