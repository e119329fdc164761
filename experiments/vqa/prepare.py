"""Makes the model that VQA starts from: `tiny` as a question answerer, with a vocabulary of what questions need.

    python experiments/vqa/prepare.py --texts runs/vqa/train.jsonl ../shared/data/vqa-v2-questions.jsonl.gz \
        -o runs/vqa/init

Kept are all single characters, every word of the answers and the commonest of the questions; a word that is cut is
still read, piece by piece.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from blip.checkpoint.files import write_folder
from blip.checkpoint.load import load, start_from
from blip.tokenizer import Tokenizer

SIZE = 4000  # pieces, without [DEC] and [ENC]
SPECIAL = 5
ANSWER_SHARE = 1000  # weight of a piece of an answer, in questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--texts", nargs="+", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    loaded = load(args.model)
    assert loaded.vocab is not None, "a model with a vocabulary of its own"
    pieces = loaded.vocab.read_text(encoding="utf-8").splitlines()
    kept = sorted(chosen(loaded.tokenizer, pieces, args.texts))
    model, _ = start_from(loaded, replace(loaded.config, family="vqa"))
    text = replace(loaded.config.text, vocab_size=len(kept) + 2, dec_id=len(kept), enc_id=len(kept) + 1)
    config = replace(loaded.config, family="vqa", text=text)
    rows = torch.tensor([*kept, loaded.config.text.dec_id, loaded.config.text.enc_id])
    state = {name: cut(name, tensor, rows) for name, tensor in model.state_dict().items()}
    args.output.mkdir(parents=True, exist_ok=True)
    words = args.output.parent / "vocab.txt"
    words.write_text("".join(pieces[i] + "\n" for i in kept), encoding="utf-8")
    write_folder(args.output, state, config, vocab=words)
    print(f"{len(kept)} of {len(pieces)} pieces; {sum(t.numel() for t in state.values()) / 1e6:.1f} M weights")


def chosen(tokenizer: Tokenizer, pieces: list[str], files: list[Path]) -> set[int]:
    """Special ids, single characters (also inside words), then pieces by how often they are used."""
    counts: Counter[int] = Counter()
    for weight, text in texts(files):
        counts.update(dict.fromkeys(tokenizer.word_ids(text), weight))
    kept = set(range(SPECIAL)) | {i for i, piece in enumerate(pieces) if len(piece.removeprefix("##")) == 1}
    for i, _ in counts.most_common():
        if len(kept) < SIZE:
            kept.add(i)
    return kept


def texts(files: list[Path]) -> Iterator[tuple[int, str]]:
    """Questions and answers of JSON lines, with what each counts."""
    for path in files:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield 1, row["question"].lower()
                if "answer" in row and path.suffix != ".gz":  # made-up ones, which are learnt
                    yield from ((ANSWER_SHARE, answer) for answer in set(row["answer"]))


def cut(name: str, tensor: Tensor, rows: Tensor) -> Tensor:
    """Weights that have a row for each word keep those of the words that stay."""
    return tensor[rows] if name.endswith(("embed.word.weight", "lm_head.bias")) else tensor


if __name__ == "__main__":
    main()
