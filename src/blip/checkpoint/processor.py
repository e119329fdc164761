"""What a Transformers folder holds beside weights: the vocabulary, how a text begins, how a picture is prepared.

Their `AutoProcessor` reads these files, so that texts and pictures become the ids and pixels that ours become.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from blip_lite.config import BlipConfig, Family
from blip_lite.errors import CheckpointError
from blip_lite.tokenizer import Tokenizer

VOCAB = "vocab.txt"
# The token before a text. original: [DEC] for captions, [ENC] for questions and matching, [CLS] for text vectors;
# theirs: one for all calls of a model, in published files [CLS]. Matching keeps it: cosines need it.
_FIRST: dict[Family, str] = {"caption": "[DEC]", "vqa": "[ENC]", "retrieval": "[CLS]"}


def processor_files(config: BlipConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """File name -> content of the files that make a processor for a model of Transformers."""
    first = _FIRST[config.family]
    named = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": first,
        "mask_token": "[MASK]",
        "additional_special_tokens": [t for t in ("[CLS]", "[DEC]", "[ENC]") if t != first],
    }
    texts = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": config.text.max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "processor_class": "BlipProcessor",
        **named,
    }
    size = config.vision.image_size
    pictures = {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config.image_mean,
        "image_std": config.image_std,
    }
    return {
        VOCAB: "".join(f"{piece}\n" for piece in _every_piece(tokenizer)),
        "tokenizer_config.json": _json(texts),
        "special_tokens_map.json": _json(named),
        "preprocessor_config.json": _json(pictures),
    }


def with_own_vocabulary(config: BlipConfig, folder: Path | None) -> BlipConfig:
    """The config of a Transformers folder, naming the vocabulary there if it is another than the bundled one."""
    if folder is None or not (folder / VOCAB).is_file():
        return config
    named = replace(config, vocab=VOCAB)
    own = Tokenizer.from_config(named, folder).pieces(range(config.text.vocab_size))
    try:
        bundled = Tokenizer.from_config(config).pieces(range(config.text.vocab_size))
    except CheckpointError:  # the model has fewer ids
        return named
    return config if own == bundled else named


def _every_piece(tokenizer: Tokenizer) -> list[str]:
    """One piece for every id; ids without one get a name that no text gives."""
    taken: set[str] = set()
    pieces = []
    for i, piece in enumerate(tokenizer.pieces(range(len(tokenizer)))):
        pieces.append(f"[NONE{i}]" if piece in taken else piece)
        taken.add(piece)
    return pieces


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
