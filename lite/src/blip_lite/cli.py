"""`blip-lite caption|ask|match`: exported models on the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from blip_lite import __version__
from blip_lite.errors import UnreadableImage, UsageError
from blip_lite.streams import run_command
from blip_lite.terminal import printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from blip_lite.model import Model

# rows of cells for each of a batch of images
Describe = Callable[["Model", list["Image"], argparse.Namespace], Iterable[list[list[str]]]]


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments as a UsageError, printed as one line like all errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; '{self.prog} -h' lists all flags")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return the exit code: 0 done, 1 some inputs failed, 2 usage, 3 model, 4 environment."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_command("blip-lite", lambda: _run(_parser().parse_args(arguments)), debug="--debug" in arguments)


def _parser() -> _Parser:
    parser = _Parser(prog="blip-lite", description="Captions, answers and matches without torch.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    caption = _verb(verbs, "caption", "describe images", _captions)
    caption.add_argument("--beams", type=_beams, default=3, help="beam width; 1 is greedy")
    caption.add_argument("--prompt", help="start of the caption")
    ask = _verb(verbs, "ask", "answer questions about images", _answers)
    ask.add_argument("-q", "--question", action="append", required=True, help="repeatable")
    ask.add_argument("--answers", type=_closed, help="allowed answers: a,b,c")
    match = _verb(verbs, "match", "score texts against images: itm is a probability, itc a cosine", _matches)
    match.add_argument("-t", "--text", action="append", required=True, help="repeatable")
    return parser


def _verb(verbs: argparse._SubParsersAction[_Parser], name: str, purpose: str, describe: Describe) -> _Parser:
    verb = verbs.add_parser(name, help=purpose, description=purpose)
    verb.add_argument("inputs", nargs="+", metavar="INPUT", help="image files and folders")
    verb.add_argument("-m", "--model", help="exported folder; default BLIP_MODEL, else tiny")
    verb.add_argument("--threads", type=_threads, help="number of CPU threads; default: the physical cores")
    verb.add_argument("--debug", action="store_true", help="show tracebacks")
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
        raise argparse.ArgumentTypeError(f"'{text}' contains no answer; must be a,b,c")
    return answers


def _run(arguments: argparse.Namespace) -> int:
    from blip_lite.image import read, shrink
    from blip_lite.onnx_backend import load

    keys = list(_files(arguments.inputs))
    if not keys:
        raise UsageError("no images found")
    model = load(arguments.model, threads=arguments.threads)
    failed, size = 0, model.default_batch_size
    for start in range(0, len(keys), size):
        opened: list[tuple[str, Image]] = []
        for key in keys[start : start + size]:
            try:
                opened.append((key, shrink(read(key), model.config.vision.image_size)))
            except UnreadableImage as error:
                print(printable(str(error)), file=sys.stderr)
                failed += 1
        rows = arguments.describe(model, [image for _, image in opened], arguments) if opened else []
        for (key, _), cells in zip(opened, rows, strict=True):
            for row in cells:
                print("\t".join(printable(" ".join(cell.split())) for cell in (row if len(keys) == 1 else [key, *row])))
        sys.stdout.flush()
    return 1 if failed else 0


def _files(inputs: Iterable[str]) -> Iterator[str]:
    """Files as given; images in folders, in byte order, without hidden names."""
    from blip_lite.image import EXTENSIONS

    for name in inputs:
        if not Path(name).is_dir():
            yield name
            continue
        candidates = (path for path in Path(name).rglob("*") if path.suffix.lower() in EXTENSIONS)
        files = (path.relative_to(name) for path in candidates if _may_be_image(path))
        visible = (path for path in files if not any(part.startswith(".") for part in path.parts))
        yield from (str(Path(name) / path) for path in sorted(visible, key=os.fsencode))


def _may_be_image(path: Path) -> bool:
    """Whether to read a path: files and broken links, which are reported; not folders, nor pipes, which would block."""
    return os.path.isfile(path) or not os.path.exists(path)


def _captions(model: Model, images: list[Image], arguments: argparse.Namespace) -> Iterable[list[list[str]]]:
    from blip_lite.decoding import make_decoding

    captions = model.caption_batch(images, make_decoding(beams=arguments.beams), prompt=arguments.prompt)
    return [[[caption.text]] for caption in captions]


def _answers(model: Model, images: list[Image], arguments: argparse.Namespace) -> Iterable[list[list[str]]]:
    questions = arguments.question
    for image in images:
        answers = model.answer_batch([image] * len(questions), questions, answers=arguments.answers)
        yield [[question, answer.text] for question, answer in zip(questions, answers, strict=True)]


def _matches(model: Model, images: list[Image], arguments: argparse.Namespace) -> Iterable[list[list[str]]]:
    scores = model.match_batch(images, arguments.text)
    assert scores.itm is not None and scores.itc is not None, "match computes both by default"
    for itm, itc in zip(scores.itm, scores.itc, strict=True):
        yield [
            [text, f"{a:.4f}", f"{b:.4f}"]
            for text, a, b in zip(arguments.text, itm.tolist(), itc.tolist(), strict=True)
        ]
