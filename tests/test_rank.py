"""`Model.rank`: images for a text or another image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blip
from blip_lite.errors import ConfigError, MissingPart


@pytest.fixture(scope="module")
def model() -> blip.Model:
    return blip.load_random()


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.RandomState(3)
    return [Image.fromarray(rng.randint(0, 256, (32, 40, 3), dtype=np.uint8)) for _ in range(11)]


def test_hits_are_ordered_by_cosine_then_by_logit_and_cosine(model: blip.Model, images: list[Image.Image]) -> None:
    cosines = model.match(images, "a cat").itc[:, 0]
    plain = model.rank("a cat", images, rerank=0)
    assert [int(hit.path) for hit in plain] == np.argsort(-cosines).tolist()
    assert all(hit.itm is None and hit.score == hit.itc for hit in plain)
    hits = model.rank("a cat", images, rerank=5)
    assert {hit.path for hit in hits[:5]} == {hit.path for hit in plain[:5]}
    assert [hit.path for hit in hits[5:]] == [hit.path for hit in plain[5:]]
    chosen = [int(hit.path) for hit in hits[:5]]
    expected = model.match_logits([images[i] for i in chosen], ["a cat"])[:, 0, 1] + cosines[chosen]
    assert np.allclose([hit.score for hit in hits[:5]], expected, atol=1e-4) and (np.diff(expected) <= 1e-4).all()
    chances = model.match([images[i] for i in chosen], "a cat").itm[:, 0]
    assert np.allclose([hit.itm for hit in hits[:5]], chances, atol=1e-4)


def test_a_photo_can_be_the_query(model: blip.Model, images: list[Image.Image], tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=False):
        image.save(path)
    with paths[2].open("rb") as file:
        hits = model.rank(paths[1], iter([paths[0], paths[1], file]))
    assert hits[0].path == str(paths[1]) and hits[0].score == pytest.approx(1, abs=1e-4) and hits[0].itm is None
    assert hits[0].to_dict()["rank"] == 1


def test_empty_lists_and_wrong_arguments(model: blip.Model, images: list[Image.Image]) -> None:
    assert model.rank("a cat", []) == []
    with pytest.raises(ConfigError, match="rerank -1: must be an integer of at least 0"):
        model.rank("a cat", images, rerank=-1)
    with pytest.raises(MissingPart, match="match"):
        blip.load_random("caption").rank("a cat", images)
