"""Tokenizer: BERT word pieces with BLIP's two extra tokens, and the original's text clean-up.

The vocabulary file lists word pieces, one per line; the id of a piece is its line number from 0. Special ids ([CLS],
[SEP], [DEC], [ENC], …) come from `TextConfig` and may be beyond the last line. Special tokens typed by a user are
plain text, unlike in the original.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as _WordPieces
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from blip_lite.config import BlipConfig, TextConfig
from blip_lite.errors import CheckpointError, ConfigError

First = Literal["cls", "enc", "dec"]

BUNDLED = "bert-base-uncased"

_CAPTION_MARKS = re.compile(r'[.!"()*#:;~]')
_SPACES = re.compile(r"\s{2,}")
# Source: transformers 4.15.0 `clean_up_tokenization`, in its order.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Arrays(NamedTuple):
    """input_ids [B,T] and attention_mask [B,T] (1 = real), both int64."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class Tokenizer:
    """Word pieces of one vocabulary with the special ids of one model. Ids equal the original tokenizer's."""

    def __init__(self, pieces: Sequence[str], config: TextConfig) -> None:
        """`pieces[i]` is the word piece with id i."""
        _check_vocabulary(pieces, config)
        self.config = config
        self._pieces = list(pieces)
        vocabulary = {piece: i for i, piece in enumerate(self._pieces)}
        self._words = _WordPieces(WordPiece(vocabulary, unk_token=self._pieces[config.unk_id]))
        self._words.normalizer = BertNormalizer(lowercase=True)
        self._words.pre_tokenizer = BertPreTokenizer()
        named = {
            "[PAD]": config.pad_id,
            "[UNK]": config.unk_id,
            "[CLS]": config.cls_id,
            "[SEP]": config.sep_id,
            "[MASK]": config.mask_id,
            "[DEC]": config.dec_id,
            "[ENC]": config.enc_id,
        }
        self._special = {i: name for name, i in named.items()}

    @classmethod
    def from_config(cls, config: BlipConfig, folder: Path | None = None) -> Self:
        """The bundled vocabulary, or the file `config.vocab` in `folder`."""
        if config.vocab == BUNDLED:
            path = Path(__file__).parent / "assets" / f"{BUNDLED}-vocab.txt"
        elif folder is None:
            raise ConfigError(f"vocab '{config.vocab}': must be '{BUNDLED}' without a model folder")
        else:
            path = Path(folder) / config.vocab
        try:
            pieces = path.read_bytes().decode("utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: vocabulary cannot be read ({error})") from error
        pieces = [piece.removesuffix("\r") for piece in pieces]
        return cls(pieces[:-1] if pieces[-1] == "" else pieces, config.text)

    def __len__(self) -> int:
        """Number of ids, including special ones (the model's V)."""
        return self.config.vocab_size

    def word_ids(self, text: str) -> list[int]:
        """Ids of the word pieces of a text, without special ids except [UNK]."""
        text = text.encode("utf-8", "ignore").decode("utf-8")  # drops lone surrogates
        return list(self._words.encode(text, add_special_tokens=False).ids)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids that generation starts from: [DEC] and the word pieces of the prompt."""
        return [self.config.dec_id, *self.word_ids(prompt)]

    def arrays(
        self,
        texts: Sequence[str],
        *,
        first: First = "cls",
        max_length: int | None = None,
        padding: Literal["longest", "max_length"] = "longest",
    ) -> Arrays:
        """Encode texts as `[first] words [SEP]`, padded on the right.

        max_length: longer rows are cut and keep [SEP]; None = the model's number of positions.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of str, not one str")
        limit = self.config.max_length if max_length is None else max_length
        if not 2 <= limit <= self.config.max_length:
            raise ConfigError(f"max_length {limit}: must be from 2 to {self.config.max_length}")
        start = {"cls": self.config.cls_id, "enc": self.config.enc_id, "dec": self.config.dec_id}[first]
        rows = [[start, *self.word_ids(text)[: limit - 2], self.config.sep_id] for text in texts]
        width = limit if padding == "max_length" else max(map(len, rows), default=0)
        input_ids = np.full((len(rows), width), self.config.pad_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = 1
        return Arrays(input_ids, attention_mask)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Word pieces as in the vocabulary; special ids as `[CLS]` and so on."""
        return [self._piece(int(i)) for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids without special ids, with the original's clean-up of spaces."""
        known = len(self._pieces)
        words = " ".join(self._pieces[i] for i in map(int, ids) if i not in self._special and 0 <= i < known)
        text = words.replace(" ##", "").strip()
        for old, new in _CLEAN_UP:
            text = text.replace(old, new)
        return text

    def _piece(self, i: int) -> str:
        if i in self._special:
            return self._special[i]
        return self._pieces[i] if 0 <= i < len(self._pieces) else "[UNK]"


def clean_caption(text: str, max_words: int = 50) -> str:
    """Lower-case a text and replace most punctuation by spaces. Source: BLIP data/utils.py pre_caption."""
    text = _SPACES.sub(" ", _CAPTION_MARKS.sub(" ", text.lower()))
    return " ".join(text.rstrip("\n").strip(" ").split(" ")[:max_words])


def clean_question(text: str, max_words: int = 50) -> str:
    """Like `clean_caption`, but delete punctuation and keep spaces. Source: BLIP data/utils.py pre_question."""
    return " ".join(_CAPTION_MARKS.sub("", text.lower()).rstrip(" ").split(" ")[:max_words])


def _check_vocabulary(pieces: Sequence[str], config: TextConfig) -> None:
    if len(pieces) > config.vocab_size:
        raise CheckpointError(f"vocabulary has {len(pieces)} lines; the model has {config.vocab_size} ids")
    if not 0 <= config.unk_id < len(pieces):
        raise CheckpointError(f"vocabulary has {len(pieces)} lines; [UNK] must be line {config.unk_id}, from 0")
    if len(set(pieces)) < len(pieces):
        raise CheckpointError("vocabulary lists a word piece twice; each must be listed once")
