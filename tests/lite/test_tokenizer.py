"""Ids and texts equal those of the original tokenizer."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blip.tokenizer import Tokenizer
from blip_lite import ASSETS
from blip_lite.config import BlipConfig, TextConfig
from blip_lite.errors import CheckpointError, ConfigError
from blip_lite.tokenizer import clean_caption, clean_question
from tests.oracle_files import oracle_config, tensors, values

# The original turns these words of a user's text into special ids; here they are plain text (a deliberate difference).
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_config(BlipConfig())


def cut_vocabulary(folder: Path, lines: int) -> Path:
    """The first lines of the bundled vocabulary as a file."""
    bundled = ASSETS / "bert-base-uncased-vocab.txt"
    (folder / "vocab.txt").write_text("\n".join(bundled.read_text("utf-8").split("\n")[:lines]) + "\n", "utf-8")
    return folder


def test_ids_equal_the_original(tokenizer: Tokenizer) -> None:
    rows = [row for row in values("tokenizer")["rows"] if not any(word in row["text"] for word in SPECIAL)]
    assert len(rows) > 200
    for row in rows:
        assert tokenizer.encode([row["text"]]).input_ids[0].tolist() == row["ids"], row["text"]
        for length in (30, 35):
            ids = tokenizer.encode([row["text"]], max_length=length).input_ids[0].tolist()
            assert ids == (row[f"ids_max{length}"] or row["ids"]), row["text"]


def test_the_inputs_of_the_small_models_are_tokenised_as_recorded(tmp_path: Path) -> None:
    texts, ids = values("inputs"), tensors("inputs")
    small = Tokenizer.from_config(replace(oracle_config("caption"), vocab="vocab.txt"), cut_vocabulary(tmp_path, 4000))
    for name in ("caption", "question", "answer"):
        encoded = small.encode(texts[f"{name}s"], max_length=40)
        assert torch.equal(encoded.input_ids, ids[f"{name}_ids"].long())
        assert torch.equal(encoded.attention_mask, ids[f"{name}_mask"].long())
    prompt = small.prompt_ids(texts["prompt"])
    assert tensors("caption")["prompt_ids"].tolist() == [prompt] * 3
    assert values("caption")["prompt_length"] == len(prompt)


def test_special_ids_equal_the_original(tokenizer: Tokenizer) -> None:
    special, text = values("tokenizer")["special"], tokenizer.config
    assert len(tokenizer) == special["len"]
    assert (text.dec_id, text.enc_id) == (special["bos_token_id"], special["enc_token_id"])
    assert [text.pad_id, text.unk_id, text.cls_id, text.sep_id, text.mask_id] == [
        special[name] for name in ("pad", "unk", "cls", "sep", "mask")
    ]


@pytest.mark.parametrize("word", SPECIAL)
def test_special_words_of_a_user_are_plain_text(tokenizer: Tokenizer, word: str) -> None:
    ids = tokenizer.word_ids(f"a {word} b")
    assert tokenizer.pieces(ids)[1] == "[" and tokenizer.decode(ids).replace(" ", "") == f"a{word.lower()}b"


def test_decoding_equals_the_original(tokenizer: Tokenizer) -> None:
    recorded = values("tokenizer")
    for row in recorded["rows"]:
        assert tokenizer.decode(row["ids"]) == row["decoded"]
    for ids, text, _ in recorded["decode"]:
        assert tokenizer.decode(ids) == text


def test_batches_equal_the_original(tokenizer: Tokenizer) -> None:
    for name, length, padding in (("batch_max_length_35", 35, "max_length"), ("batch_longest_40", 40, "longest")):
        recorded = values("tokenizer")[name]
        encoded = tokenizer.encode(recorded["texts"], max_length=length, padding=padding)  # type: ignore[arg-type]
        assert encoded.input_ids.tolist() == recorded["input_ids"]
        assert encoded.attention_mask.tolist() == recorded["attention_mask"]


def test_clean_up_equals_the_original() -> None:
    for row in values("text")["rows"]:
        for words in (30, 40, 50):
            assert clean_caption(row["text"], words) == row[f"caption{words}"]
        for words in (5, 50):
            assert clean_question(row["text"], words) == row[f"question{words}"]


def test_first_token_is_chosen_and_the_last_is_kept(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(["a"], first="enc").input_ids.tolist() == [[30523, 1037, 102]]
    assert tokenizer.encode(["a"], first="dec").input_ids.tolist() == [[30522, 1037, 102]]
    assert tokenizer.encode(["a picture of"], max_length=3).input_ids.tolist() == [[101, 1037, 102]]
    assert tokenizer.prompt_ids("a picture of ") == [30522, 1037, 3861, 1997]


def test_long_texts_are_cut_to_the_model(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(["word " * 600]).input_ids.shape == (1, 512)
    with pytest.raises(ConfigError, match="max_length 513: must be from 2 to 512"):
        tokenizer.encode(["a"], max_length=513)


def test_no_texts_and_unusual_texts_are_encoded(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode([]).input_ids.shape == (0, 0)
    assert tokenizer.encode(["", "\ud800", "\0"]).input_ids.tolist() == [[101, 102]] * 3
    with pytest.raises(TypeError, match="sequence"):
        tokenizer.encode("not a list")


def test_decode_skips_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([1037, -100, 99999, 3861]) == "a picture"
    assert tokenizer.pieces([101, 30522, 3861, 99999]) == ["[CLS]", "[DEC]", "picture", "[UNK]"]


def test_cut_vocabulary_with_special_ids_beyond_its_lines(tmp_path: Path) -> None:
    config = oracle_config("caption", vocab="vocab.txt")
    tokenizer = Tokenizer.from_config(config, cut_vocabulary(tmp_path, 4000))
    recorded = values("inputs")
    assert len(tokenizer) == 4002 and tokenizer.prompt_ids(recorded["prompt"]) == [4000, 1037, 3861, 1997]
    text = recorded["captions"][0]
    assert tokenizer.decode(tokenizer.encode([text]).input_ids[0]) == text


def test_special_ids_within_the_lines(tmp_path: Path) -> None:
    text = replace(TextConfig(), vocab_size=4000, dec_id=1, enc_id=2)
    config = BlipConfig(text=text, vocab="vocab.txt")
    tokenizer = Tokenizer.from_config(config, cut_vocabulary(tmp_path, 4000))
    assert tokenizer.prompt_ids("a") == [1, 1037] and tokenizer.decode([1, 1037, 2]) == "a"


def test_wrong_vocabularies_are_refused(tmp_path: Path) -> None:
    config = oracle_config("caption", vocab="vocab.txt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.from_config(config, tmp_path)
    with pytest.raises(CheckpointError, match="has 5000 lines; the model has 4002 ids"):
        Tokenizer.from_config(config, cut_vocabulary(tmp_path, 5000))
    with pytest.raises(CheckpointError, match=r"\[UNK\] must be line 100"):
        Tokenizer.from_config(config, cut_vocabulary(tmp_path, 50))
    with pytest.raises(ConfigError, match="without a model folder"):
        Tokenizer.from_config(config)


def test_tokenizers_can_be_pickled(tokenizer: Tokenizer) -> None:
    assert pickle.loads(pickle.dumps(tokenizer)).prompt_ids("a dog") == tokenizer.prompt_ids("a dog")


def test_import_needs_no_torch() -> None:
    modules = "blip_lite.tokenizer, blip.io.inputs, blip.io.records, blip.io.sidecars"
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
