"""Files of a Transformers folder other than weights: config.json, vocabulary, tokenizer and image processor.

With them `from_pretrained` of Transformers, model and processor, computes the same as this package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from blip_lite.config import BlipConfig, Family
from blip_lite.errors import CheckpointError, CheckpointMismatch
from blip_lite.tokenizer import Tokenizer

VOCAB = "vocab.txt"
# Defaults of Transformers' BlipTextConfig and BlipVisionConfig: published files contain only what differs.
HF_TEXT_HEADS, HF_TEXT_EPS, HF_VISION_HEADS, HF_VISION_EPS = 8, 1e-12, 12, 1e-5
CLASSES: dict[Family, str] = {
    "caption": "BlipForConditionalGeneration",
    "vqa": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
}
# First token of a text. The original uses [DEC] for captions, [ENC] for questions and matching, [CLS] for text vectors;
# Transformers one for all calls of a model, in published files [CLS]. Matching keeps it: cosines need it.
FIRST_TOKENS: dict[Family, str] = {"caption": "[DEC]", "vqa": "[ENC]", "retrieval": "[CLS]"}


def hf_heads(hf_config: Mapping[str, Any]) -> tuple[int, int]:
    """Number of heads of the image tower and of the text side."""
    text, vision = hf_config.get("text_config") or {}, hf_config.get("vision_config") or {}
    return vision.get("num_attention_heads", HF_VISION_HEADS), text.get("num_attention_heads", HF_TEXT_HEADS)


def apply_hf_config(config: BlipConfig, hf_config: Mapping[str, Any]) -> BlipConfig:
    """The config with eps and ids of Transformers' config.json, defaults included; the heads are set already."""
    text, vision = hf_config.get("text_config") or {}, hf_config.get("vision_config") or {}
    if config.text.num_heads == HF_TEXT_HEADS and config.text.width == 768:
        # original: 12 heads; Transformers' default of 8 computed wrong scores until its hub files were corrected
        raise CheckpointMismatch(
            "config.json: text_config.num_attention_heads is 8 (Transformers' default); BLIP's text side has 12: set it"
        )
    image_size = vision.get("image_size", config.vision.image_size)
    if image_size != config.vision.image_size:
        raise CheckpointMismatch(
            f"config.json: vision_config.image_size {image_size}; the weights are for {config.vision.image_size}"
        )
    dec_id = text.get("bos_token_id", config.text.dec_id)
    return replace(
        config,
        vision=replace(config.vision, norm_eps=vision.get("layer_norm_eps", HF_VISION_EPS)),
        text=replace(
            config.text,
            norm_eps=text.get("layer_norm_eps", HF_TEXT_EPS),
            pad_id=text.get("pad_token_id", config.text.pad_id),
            sep_id=text.get("sep_token_id", config.text.sep_id),
            dec_id=dec_id,
            enc_id=dec_id + 1,
        ),
    )


def with_folder_vocabulary(config: BlipConfig, folder: Path | None) -> BlipConfig:
    """The config of a Transformers folder, with the folder's vocabulary if it differs from the bundled one."""
    if folder is None or not (folder / VOCAB).is_file():
        return config
    named = replace(config, vocab=VOCAB)
    pieces = Tokenizer.from_config(named, folder).pieces(range(config.text.vocab_size))
    try:
        bundled = Tokenizer.from_config(config).pieces(range(config.text.vocab_size))
    except CheckpointError:  # the model has fewer ids
        return named
    return config if pieces == bundled else named


def hf_config(config: BlipConfig) -> dict[str, Any]:
    """Transformers' config.json of a model."""
    vision, text = config.vision, config.text
    return {
        "architectures": [CLASSES[config.family]],
        "model_type": "blip",
        "image_text_hidden_size": config.proj_width,
        "vision_config": {
            "model_type": "blip_vision_model",
            "hidden_size": vision.width,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "intermediate_size": vision.mlp_width,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.norm_eps,
        },
        "text_config": {
            "model_type": "blip_text_model",
            "hidden_size": text.width,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "intermediate_size": text.mlp_width,
            "encoder_hidden_size": vision.width,
            "max_position_embeddings": text.max_length,
            "vocab_size": text.vocab_size,
            "layer_norm_eps": text.norm_eps,
            "pad_token_id": text.pad_id,
            "bos_token_id": text.dec_id,
            "sep_token_id": text.sep_id,
            "eos_token_id": text.sep_id,
            "label_smoothing": text.label_smoothing,  # the default of Transformers is 0
        },
    }


def processor_files(config: BlipConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """File name -> content of the files of a Transformers processor."""
    first, size = FIRST_TOKENS[config.family], config.vision.image_size
    special = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": first,
        "mask_token": "[MASK]",
        "additional_special_tokens": [t for t in ("[CLS]", "[DEC]", "[ENC]") if t != first],
    }
    tokenizer_config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": config.text.max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "processor_class": "BlipProcessor",
        **special,
    }
    preprocessor_config = {
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
        VOCAB: "".join(f"{piece}\n" for piece in _unique_pieces(tokenizer)),
        "tokenizer_config.json": to_json(tokenizer_config),
        "special_tokens_map.json": to_json(special),
        "preprocessor_config.json": to_json(preprocessor_config),
    }


def _unique_pieces(tokenizer: Tokenizer) -> list[str]:
    """A piece for every id; repeated ones are replaced by names that no text contains."""
    seen: set[str] = set()
    pieces = []
    for i, piece in enumerate(tokenizer.pieces(range(len(tokenizer)))):
        pieces.append(f"[NONE{i}]" if piece in seen else piece)
        seen.add(piece)
    return pieces


def to_json(values: Mapping[str, Any]) -> str:
    """Indented JSON, as in config files."""
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
