from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from blip.checkpoint import infer
from blip.checkpoint.hf import hf_config
from blip_lite.config import published_config
from blip_lite.errors import CheckpointMismatch
from tests.checkpoint.test_state_dict import hf_weights, key_list
from tests.oracle_files import oracle_config, weights

HF_SMALL: dict[str, Any] = {
    "model_type": "blip",
    "text_config": {"num_attention_heads": 4, "bos_token_id": 4000},
    "vision_config": {"num_attention_heads": 3, "image_size": 64},
}


@pytest.mark.parametrize("name", ["decoder", "nlvr", "pretrain", "retrieval", "vqa"])
def test_sizes_are_read_from_shapes(name: str) -> None:
    family = "caption" if name == "decoder" else name
    config = infer.infer_config(weights(name), vision_heads=3, text_heads=4)
    expected = oracle_config(family, proj_width=config.proj_width)  # type: ignore[arg-type]
    assert config.proj_width == (24 if family in ("retrieval", "pretrain") else 256)
    text, vision = replace(config.text, dropout=0.0), replace(config.vision, drop_path=0.0)
    assert replace(config, text=text, vision=vision) == expected


def test_retrieval_file_without_momentum_is_retrieval() -> None:
    assert infer.infer_config(key_list("itm_base")).family == "retrieval"


def test_heads_are_never_guessed_for_odd_widths() -> None:
    with pytest.raises(CheckpointMismatch, match="number of heads must be given"):
        infer.infer_config(weights("decoder"))


def test_transformers_config_decides_heads_and_eps() -> None:
    state = key_list("hf_caption")
    config = infer.infer_config(state, {"text_config": {"num_attention_heads": 12}, "vision_config": {}})
    assert (config.text.num_heads, config.vision.num_heads) == (12, 12)
    assert (config.text.norm_eps, config.vision.norm_eps) == (1e-12, 1e-5)


@pytest.mark.parametrize("text", [{}, {"num_attention_heads": 8}])
def test_eight_text_heads_are_refused(text: dict[str, int]) -> None:
    with pytest.raises(CheckpointMismatch, match="has 12: set it"):
        infer.infer_config(key_list("hf_caption"), {"text_config": text, "vision_config": {}})


def test_image_size_of_transformers_config_must_fit() -> None:
    with pytest.raises(CheckpointMismatch, match="image_size 480"):
        infer.infer_config(
            key_list("hf_vqa"), {"text_config": {"num_attention_heads": 12}, "vision_config": {"image_size": 480}}
        )


def test_written_transformers_config_reads_back() -> None:
    config = published_config("retrieval", "large")
    again = infer.infer_config(key_list("retrieval_large"), hf_config(config))
    assert again == config


@pytest.mark.parametrize("stage", ["heads", "shape"])
def test_unreadable_weights_are_named(stage: str) -> None:
    state = hf_weights("caption")
    if stage == "heads":
        config = infer.infer_config(state, HF_SMALL, vision_heads=3, text_heads=4)
        assert config.text.dec_id == 4000 and config.text.enc_id == 4001
        return
    state["vision_model.embeddings.position_embedding"] = torch.zeros(1, 12, 48)
    with pytest.raises(CheckpointMismatch, match="must be a square number"):
        infer.infer_config(state, HF_SMALL, vision_heads=3, text_heads=4)
