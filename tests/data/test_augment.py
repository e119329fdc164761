from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from blip.data import augment
from tests.oracle_files import tensors, values

ORACLE = {name: value.numpy() for name, value in tensors("augment").items()}
OPS = [op for op in values("augment")["ops"] if op["op"] in augment.OPS]
PATTERN = ORACLE["src.pattern"]


def scalars(args: list[object]) -> list[float]:
    return [float(a) for a in args if isinstance(a, int | float)]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op["key"])
def test_operations_equal_the_original(op: dict[str, object]) -> None:
    legacy = [True] if op["op"] == "AutoContrast" else []
    out = augment.apply(ORACLE[f"src.{op['src']}"], op["op"], *scalars(op["args"]), *legacy)
    np.testing.assert_array_equal(out, ORACLE[op["key"]])


@pytest.mark.parametrize("row", [r for r in values("augment")["levels"] if r[0] in augment.OPS], ids=str)
def test_arguments_of_levels_equal_the_original(row: list[object]) -> None:
    name, level, seed, args = row
    assert list(augment.arguments(name, level, np.random.RandomState(seed))) == pytest.approx(scalars(args), abs=0)


def test_the_ten_operations_are_those_of_the_original_in_its_order() -> None:
    assert list(augment.OPS) == values("augment")["augs"]


@pytest.mark.parametrize(("seed", "ops"), values("augment")["pipeline"], ids=str)
def test_a_seed_draws_what_the_original_draws(seed: int, ops: list[list[object]]) -> None:
    rand = augment.RandAugment(2, 5, legacy_autocontrast=True)
    drawn = rand.draw(np.random.RandomState(seed))
    assert [[name, list(args)] for name, args in drawn] == [[name, scalars(args)] for name, args in ops]
    np.testing.assert_array_equal(rand(PATTERN, np.random.RandomState(seed)), ORACLE["pipeline.seeds"][seed])


def test_ten_draws_in_a_row_equal_the_original() -> None:
    rng = np.random.RandomState(99)
    rand = augment.RandAugment(2, 5, legacy_autocontrast=True)
    for expected in ORACLE["pipeline.sequence_seed99"]:
        np.testing.assert_array_equal(rand(PATTERN, rng), expected)


@pytest.mark.parametrize("source", ["flat", "noise", "pattern"])
def test_autocontrast_and_equalize_equal_pillow(source: str) -> None:
    image = ORACLE[f"src.{source}"]
    picture = Image.fromarray(image)
    np.testing.assert_array_equal(augment.auto_contrast(image), np.asarray(ImageOps.autocontrast(picture)))
    np.testing.assert_array_equal(augment.equalize(image), np.asarray(ImageOps.equalize(picture)))


def test_legacy_autocontrast_whitens_channels_without_black() -> None:
    image = np.random.RandomState(0).randint(40, 200, (8, 8, 3)).astype(np.uint8)
    assert (augment.auto_contrast(image, legacy=True) == 255).all()
    assert augment.auto_contrast(image).min() == 0


def test_warps_that_move_everything_out_leave_the_fill() -> None:
    assert (augment.translate_x(PATTERN, 500.0) == augment.FILL).all()
    assert (augment.translate_y(PATTERN, -500.0) == augment.FILL).all()


@pytest.mark.parametrize("name", augment.OPS)
def test_operations_keep_shape_type_and_input(name: str) -> None:
    image = PATTERN.copy()
    out = augment.apply(image, name, *augment.arguments(name, 10, np.random.RandomState(1)))
    assert (out.shape, out.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, PATTERN)
