"""Identity of the model of an index."""

from __future__ import annotations

from pathlib import Path

import pytest

import blip
from blip.apps.search.identity import identity_of


def test_same_weights_have_same_identity_under_any_name(model: blip.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    for name in (tmp_path / "m", tmp_path / "m" / "model.safetensors"):
        identity = identity_of(blip.load(name))
        assert identity.model == str(name) and len(identity.weights) == 64
        assert identity.weights == identity_of(blip.load(tmp_path / "m")).weights
    model.save(tmp_path / "copy")
    assert identity_of(blip.load(tmp_path / "copy")).weights == identity.weights


def test_relative_name_becomes_absolute(model: blip.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    assert identity_of(blip.load("m")).model == str(tmp_path / "m")
    assert identity_of(model).model == "random-tiny"


def test_weights_file_is_hashed_once(model: blip.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path / "m")
    loaded = blip.load(tmp_path / "m")
    known = identity_of(loaded)
    monkeypatch.setattr("blip.apps.search.identity.sha256_of", None)
    assert identity_of(loaded, known) == known


def test_other_weights_or_image_size_change_identity(model: blip.Model) -> None:
    ours = identity_of(model)
    assert identity_of(blip.load_random()).weights == ours.weights
    assert identity_of(blip.load_random(seed=1)).weights != ours.weights
    assert identity_of(blip.load("random-tiny", image_size=48)).image_size == 48
