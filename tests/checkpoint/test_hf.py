"""Folders written for Transformers: its processor and classes compute the same results, from photo to text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import blip
from blip_lite.config import Family
from blip_lite.errors import ConfigError, UsageError
from blip_lite.model import Model
from tests.checkpoint.test_transformers_parity import CLASSES, make_ends_likely, shake

transformers = pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[2] / "examples"
PHOTOS = [EXAMPLES / name for name in ("chelsea.png", "coffee.png", "rocket.jpg", "camera.png")]
QUESTION = "What's the Cat doing on the café's table?"

Opened = tuple[Model, Any, Any]  # model of this package, processor and model of Transformers
Open = Callable[[Family], Opened]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_both(kind: Family) -> Opened:
        ours = blip.load_random(kind)
        shake(ours.backend.module)
        if hasattr(ours.backend.module, "decoder"):
            decoder = ours.backend.module.decoder
            make_ends_likely(decoder.lm_head.bias, decoder.embed.word.weight, ours.config.text.sep_id)
        ours.save(tmp_path, "hf")
        theirs = getattr(transformers, CLASSES[kind]).from_pretrained(tmp_path).eval()
        return ours, transformers.AutoProcessor.from_pretrained(tmp_path), theirs

    return open_both


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in PHOTOS]


def test_captions_are_the_same(opened: Open, pictures: list[Image.Image]) -> None:
    ours, processor, theirs = opened("caption")
    given = processor(images=pictures, text=[ours.config.prompt] * len(pictures), return_tensors="pt")
    ids = theirs.generate(**given, max_length=20, min_length=5, num_beams=1, do_sample=False)
    new = ids[:, len(ours.tokenizer.prompt_ids(ours.config.prompt)) :]
    words = [processor.tokenizer.convert_ids_to_tokens(row) for row in new]
    texts = [tuple(row[: row.index("[SEP]") + 1] if "[SEP]" in row else row) for row in words]
    assert texts == [caption.tokens for caption in ours.caption(PHOTOS, beams=1)]
    assert len(set(texts)) > 1


def test_answers_are_the_same(opened: Open, pictures: list[Image.Image]) -> None:
    ours, processor, theirs = opened("vqa")
    given = processor(images=pictures, text=[QUESTION] * len(pictures), return_tensors="pt")
    # one beam: with more, Transformers normalises scores by another length (test_transformers_parity)
    ids = theirs.generate(**given, max_length=10, min_length=1, num_beams=1, do_sample=False)
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    assert texts == [answer.text for answer in ours.answer(PHOTOS, QUESTION, beams=1)]


def test_cosines_and_match_scores_with_the_token_of_the_original_are_the_same(
    opened: Open, pictures: list[Image.Image]
) -> None:
    ours, processor, theirs = opened("retrieval")
    match = ours.match(PHOTOS, "a cat")
    given = processor(images=pictures, text=["a cat"] * len(pictures), return_tensors="pt")
    with torch.no_grad():
        cosines = theirs(**given, use_itm_head=False).itm_score[:, 0]
        given["input_ids"][:, 0] = processor.tokenizer.convert_tokens_to_ids("[ENC]")
        probs = theirs(**given).itm_score.softmax(dim=-1)[:, 1]
    np.testing.assert_allclose(cosines, match.itc[:, 0], atol=1e-5)
    np.testing.assert_allclose(probs, match.itm[:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_folder_loads_as_the_same_model(kind: Family, tmp_path: Path) -> None:
    model = blip.load_random(kind)
    model.save(tmp_path, "hf")
    again = blip.load(tmp_path)
    assert again.config.vocab == model.config.vocab
    for name, tensor in model.backend.module.state_dict().items():
        assert name == "temperature" or torch.equal(tensor, again.backend.module.state_dict()[name])


def test_a_custom_vocabulary_is_written_and_read(tmp_path: Path) -> None:
    from dataclasses import replace

    from blip.checkpoint import files
    from blip_lite.config import random_tiny_config
    from blip_lite.tokenizer import Tokenizer

    config = random_tiny_config("caption")
    pieces = Tokenizer.from_config(config).pieces(range(30522))
    pieces[2000:2002] = ["zyblip", "##zylam"]
    (tmp_path / "own.txt").write_text("\n".join(pieces), encoding="utf-8")
    config = replace(config, vocab="own.txt")
    state = blip.load_random("caption").backend.module.state_dict()
    files.write_hf_folder(tmp_path / "hf", state, config, tmp_path / "own.txt")
    assert blip.load(tmp_path / "hf").tokenizer.word_ids("zyblipzylam") == [2000, 2001]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")("zyblipzylam").input_ids[1:-1] == [2000, 2001]


def test_a_model_with_a_stem_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Transformers cannot hold the convolutional stem 'edgetpu'"):
        blip.load("tiny").save(tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


def test_an_unknown_layout_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layout 'onnx'; must be blip or hf"):
        blip.load_random().save(tmp_path, "onnx")  # type: ignore[arg-type]
