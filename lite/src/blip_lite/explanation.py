"""`Explanation`, the heat-maps of a model's output, and their drawing: resized, smoothed, coloured, over the photo.

Drawing follows LAVIS's getAttMap (blip-spec 5.9).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blip_lite.arrays import Floats
from blip_lite.errors import UsageError

Method = Literal["gradcam", "attention", "rollout"]
Subject = Literal["match", "caption", "answer"]

BLUR = 0.02  # sigma of the smoothing, as a share of the longer side
_REACH = 4.0  # sigmas; weights beyond are ignored
# Corners of matplotlib's colour map `jet`, (positions, values) of red, green, blue.
_JET = (
    ((0.0, 0.35, 0.66, 0.89, 1.0), (0.0, 0.0, 1.0, 1.0, 0.5)),
    ((0.0, 0.125, 0.375, 0.64, 0.91, 1.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)),
    ((0.0, 0.11, 0.34, 0.65, 1.0), (0.5, 1.0, 1.0, 0.0, 0.0)),
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Heat-maps of one match, caption or answer: a map [g, g] for each token, at least 0, in `maps` [T, g, g].

    Maps of one explanation can be compared, those of two cannot. `score` is the probability of a match, or the mean
    log-probability of the tokens of a caption or answer; `layer` is the index of the cross-attention used.
    """

    tokens: tuple[str, ...]
    maps: Floats = field(repr=False)
    method: str
    layer: int
    score: float
    subject: str = "match"
    text: str = ""
    image: Image.Image | None = field(default=None, repr=False, compare=False)

    def words(self) -> Explanation:
        """The same per word: word pieces joined, their maps averaged, special tokens left out."""
        groups: list[list[int]] = []
        for i, token in enumerate(self.tokens):
            if token.startswith("##") and groups and groups[-1][-1] == i - 1:
                groups[-1].append(i)
            elif not _is_special(token):
                groups.append([i])
        joined = tuple("".join(self.tokens[i].removeprefix("##") for i in group) for group in groups)
        maps = np.stack([self.maps[group].mean(axis=0) for group in groups]) if groups else self.maps[:0]
        return replace(self, tokens=joined, maps=maps)

    def mean(self) -> Floats:
        """Mean map [g, g] of all tokens that are not special; zeros if there are none."""
        rows = [i for i, token in enumerate(self.tokens) if not _is_special(token)]
        mean: Floats = self.maps[rows].mean(axis=0) if rows else np.zeros_like(self.maps[0])
        return mean

    def map_of(self, token: str | int | None = None) -> Floats:
        """Map [g, g] of a token by index, of the first token or word with this text, or for None the mean."""
        if token is None:
            return self.mean()
        for parts in (self, self.words()):
            if isinstance(token, int) and -len(parts.tokens) <= token < len(parts.tokens):
                return parts._map(token)
            if token in parts.tokens:
                return parts._map(parts.tokens.index(str(token)))
        raise UsageError(f"no token {token!r}; must be one of {', '.join(self.words().tokens)}, or an index")

    def _map(self, index: int) -> Floats:
        grid: Floats = self.maps[index]
        return grid

    def overlay(self, token: str | int | None = None, size: int | None = None) -> Image.Image:
        """The image with a map of `map_of` in colour over it, its longer side resized to `size` pixels.

        Raises UsageError for an unknown token or an explanation without its image.
        """
        if self.image is None:
            raise UsageError("this explanation has no image to draw on")
        return draw_overlay(self.image, self.map_of(token), size)

    def to_dict(self) -> dict[str, Any]:
        """The record fields, without maps and image."""
        return {
            "subject": self.subject,
            "text": self.text,
            "score": self.score,
            "method": self.method,
            "layer": self.layer,
            "tokens": list(self.tokens),
        }


def _is_special(token: str) -> bool:
    """Whether a token is [ENC], [SEP] and similar; brackets in a text are tokens of one character."""
    return len(token) > 2 and token[0] == "[" and token[-1] == "]"


def draw_overlay(image: Image.Image, grid: Floats, size: int | None = None) -> Image.Image:
    """The image with the map [h, w] in colour over it; opacity rises with the map.

    size: number of pixels of the longer side; None = unchanged.
    """
    photo = image.convert("RGB") if size is None else resize_longer_side(image.convert("RGB"), size)
    values = resize_map(grid, photo.size)[..., None]
    opacity = values**0.7
    mixed = (1 - opacity) * np.asarray(photo, dtype=np.float32) / 255 + opacity * jet(values[..., 0])
    return Image.fromarray((mixed * 255).round().astype(np.uint8))


def resize_map(grid: Floats, size: tuple[int, int]) -> Floats:
    """A map [h, w] at the size (width, height) of an image: [H, W] in [0, 1], bicubic, smoothed. A flat map is 0."""
    across, down = (_weights(count, side, BLUR * max(size)) for count, side in zip(grid.shape[::-1], size, strict=True))
    return min_max(down @ min_max(grid) @ across.T)


def _weights(count: int, side: int, sigma: float) -> Floats:
    """Weight [side, count] of each grid position at each pixel of an axis, resized and smoothed."""
    positions = Image.fromarray(np.eye(count, dtype=np.float32))
    return blur(np.asarray(positions.resize((count, side), Image.Resampling.BICUBIC), dtype=np.float32), sigma)


def resize_longer_side(image: Image.Image, size: int) -> Image.Image:
    """The image with a longer side of `size` pixels."""
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def min_max(values: NDArray[np.floating[Any]]) -> Floats:
    """Values scaled to minimum 0 and maximum 1; all 0 if they are equal."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / (high - low) if high > low else np.zeros_like(values)).astype(np.float32)


def jet(values: Floats) -> Floats:
    """Values in [0, 1] of any shape to red, green and blue [..., 3] in [0, 1]."""
    return np.stack([np.interp(values, *channel) for channel in _JET], axis=-1).astype(np.float32)


def blur(values: Floats, sigma: float) -> Floats:
    """Gaussian blur along the first axis of [H, W] with mirrored border, as scipy's gaussian_filter1d."""
    reach = int(_REACH * sigma + 0.5)
    if reach == 0:
        return values
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="symmetric")
    blurred: Floats = sum(
        (w * padded[i : i + len(values)] for i, w in enumerate(weights)), np.zeros(values.shape, np.float32)
    )
    return blurred
