"""Errors of a model's config: the key, its value, and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import blip_lite
from blip.checkpoint.files import read_config
from blip_lite.config import BlipConfig, random_tiny_config
from blip_lite.errors import CheckpointError


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("vision", "width", "wide", "vision.width 'wide': must be an integer"),
        ("vision", "width", 32.5, "vision.width 32.5: must be an integer"),
        ("vision", "width", None, "vision.width None: must be an integer"),
        ("vision", "num_layers", -1, "vision.num_layers -1: must be from 1 to 1,000"),
        ("vision", "num_layers", 10**9, "must be from 1 to 1,000"),
        ("vision", "image_size", 0, "vision.image_size 0: must be from 1 to 8,192"),
        ("vision", "norm_eps", "nan", "vision.norm_eps nan: must be a finite number"),
        ("text", "dropout", float("nan"), "text.dropout nan: must be a finite number"),
        ("text", "dropout", 1.5, "text.dropout 1.5: must be from 0 to 0.99"),
        ("text", "sep_id", 99999, "text.sep_id 99999: must be from 0 to 30,523"),
        ("", "image_mean", [0.5, 0.5], "image_mean [0.5, 0.5]: must be a list of 3"),
        ("", "image_std", [0.5, 0, 0.5], "image_std [0.5, 0.0, 0.5]: must be above 0"),
        ("", "vision", [1], "vision [1]: must be a mapping"),
        ("", "prompt", 3, "prompt 3: must be a text"),
        ("", "family", "blip2", "family 'blip2': must be one of features, caption"),
        ("", "famly", "caption", "unknown key 'famly'; did you mean 'family'?"),
    ],
)
def test_wrong_values_name_key_value_and_what_is_allowed(
    tmp_path: Path, part: str, key: str, value: object, message: str
) -> None:
    values = random_tiny_config("caption").to_dict()
    (values[part] if part else values)[key] = value
    for name in ("model.safetensors", "vision.onnx"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text(json.dumps(values))
    for read in (read_config, blip_lite.load):
        with pytest.raises(CheckpointError) as error:
            read(tmp_path)
        assert str(error.value).startswith(f"{tmp_path / 'config.json'}: ") and message in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[]", "", "\x00", '{"family": "caption"'])
def test_text_that_is_not_an_object_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "vision.onnx").touch()
    (tmp_path / "config.json").write_text(text)
    for read in (read_config, blip_lite.load):
        with pytest.raises(CheckpointError) as error:
            read(tmp_path)
        assert "config.json: " in str(error.value) and "\n" not in str(error.value)


def test_configs_are_read_back_as_written() -> None:
    config = random_tiny_config("nlvr")
    assert BlipConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
