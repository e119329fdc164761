"""The command line: `blip VERB ...`, one small module per verb, imported when the verb is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from blip.cli.run import run

VERBS = {
    "caption": "describe images",
    "ask": "answer questions about images",
    "match": "score texts against images",
    "embed": "compute vectors of images or texts",
    "explain": "draw heat-maps of where the model looked",
    "index": "index the photos of folders for search",
    "search": "find photos by text or photo",
    "serve": "serve captions, answers, matches and vectors over HTTP",
    "demo": "open a web page on this machine",
    "export": "write a model as ONNX, browser page, safetensors or Transformers folder",
    "doctor": "check what is installed and whether captions work",
    "completion": "print the completion script for bash, zsh or fish",
    "schema": "print the JSON Schema of a record",
    "capfilt": "turn noisy image-text data into a better training set",
    "train": "train a model on your data",
    "eval": "evaluate a model, or predictions, on a task",
    "datasets": "list, fetch, check and convert data sets",
    "models": "list, fetch, check, import, convert and compare models",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code.

    0 done, 1 some inputs failed, 2 usage, 3 model or checkpoint, 4 environment, 70 bug, 130 Ctrl-C, 143 SIGTERM.
    """
    return run(list(sys.argv[1:] if argv is None else argv), VERBS)
