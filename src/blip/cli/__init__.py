"""The command line: `blip VERB ...`. One thin file a verb, loaded when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from blip.cli.run import run

VERBS = {
    "caption": "describe images",
    "ask": "answer questions about images",
    "match": "score texts against images",
    "embed": "images or texts as vectors",
    "explain": "heat-maps: where the model looked",
    "index": "remember the photos of folders, for search",
    "search": "find photos by text or photo",
    "serve": "captions, answers, matches, vectors over HTTP",
    "demo": "a web page on this machine",
    "export": "ONNX, a browser page, safetensors, a Transformers folder",
    "doctor": "what is here, what is missing, and whether captions work",
    "completion": "completion script for bash, zsh or fish",
    "schema": "the JSON Schema of a record",
    "train": "train a task on your data",
    "eval": "measure a model, or predictions, on a task",
    "datasets": "known data sets: list, fetch, check, convert",
    "models": "list, fetch, check, import, convert and compare models",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The program: returns its exit code (interface: 0 done, 1 some inputs failed, 2 usage, 3 model, 4 environment)."""
    return run(list(sys.argv[1:] if argv is None else argv), VERBS)
