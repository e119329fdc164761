"""Operations and bytes of the benchmarked work, counted exactly from the sizes of the networks.

A multiplication and an addition are two operations; only matrix products count. At the published sizes the counts equal
those of `benchmarks.scale`.
"""

from __future__ import annotations

from dataclasses import dataclass

from blip_lite.config import BlipConfig

NEW = 20  # tokens of a caption, forced


@dataclass(frozen=True)
class Work:
    """Least work per item: operations, and bytes of keys and values that steps read."""

    operations: float
    read: float = 0.0

    def seconds(self, rate: float, bandwidth: float) -> float:
        """Least time at operations and bytes per second."""
        return self.operations / rate + self.read / bandwidth


def vision(config: BlipConfig) -> float:
    """An image through the ViT."""
    v = config.vision
    token = 8 * v.width**2 + 4 * v.width * v.mlp_width + 4 * v.num_tokens * v.width
    patches = (v.num_tokens - 1) * 2 * 3 * v.patch_size**2 * v.width
    return float(v.num_layers * v.num_tokens * token + patches)


def keys_values(config: BlipConfig) -> float:
    """Keys and values of an image in all text layers."""
    return float(config.text.num_layers * 4 * config.vision.num_tokens * config.vision.width * config.text.width)


def token(config: BlipConfig, length: int, *, cross: bool = True) -> float:
    """A token of a text of this length through all layers, without the head."""
    t = config.text
    layer = 8 * t.width**2 + 4 * t.width * t.mlp_width + 4 * length * t.width
    if cross:
        layer += 4 * t.width**2 + 4 * config.vision.num_tokens * t.width
    return float(t.num_layers * layer)


def head(config: BlipConfig) -> float:
    """Scores of all ids after a token."""
    return float(2 * config.text.width**2 + 2 * config.text.width * config.text.vocab_size)


def generated(config: BlipConfig, prompt: int, rows: int) -> Work:
    """A text of `NEW` ids after the prompt, without the image; `rows` beams or texts, the prompt shared by them."""
    steps = sum(token(config, prompt + i) for i in range(1, NEW))
    count = prompt * token(config, prompt) + rows * steps + (1 + rows * (NEW - 1)) * head(config)
    bytes_per_value = 2
    read = 2 * config.text.num_layers * config.vision.num_tokens * config.text.width * bytes_per_value
    return Work(count, float(NEW * read))


def caption(config: BlipConfig, prompt: int, beams: int) -> Work:
    text = generated(config, prompt, beams)
    return Work(vision(config) + keys_values(config) + text.operations, text.read)


def match(config: BlipConfig, tokens: float, texts: int) -> Work:
    """One pair, if an image has `texts` texts of `tokens` tokens on average."""
    image = vision(config) + keys_values(config)
    return Work(image / texts + tokens * token(config, round(tokens)))


def capfilt(captioner: BlipConfig, filter: BlipConfig, prompt: int, tokens: float) -> Work:
    """One image: a sampled caption, and the scores of texts with `tokens` tokens in total."""
    text = caption(captioner, prompt, 1)
    scores = vision(filter) + keys_values(filter) + tokens * token(filter, round(tokens / 2))
    return Work(text.operations + scores, text.read)


def pretraining(config: BlipConfig, tokens: int) -> Work:
    """One pair: forward and backward (three times forward) of both towers, ITC, ITM with two negatives, LM.

    Keys and values of an image are needed once, since encoder and decoder share them; the momentum encoders only run
    forward.
    """
    plain = tokens * token(config, tokens, cross=False)
    fused = tokens * token(config, tokens)
    forward = vision(config) + keys_values(config) + plain + 3 * fused + fused + tokens * head(config)
    return Work(3 * forward + vision(config) + plain)


def caption_training(config: BlipConfig, tokens: int) -> Work:
    """One pair: forward and backward of the image encoder and the decoder."""
    return Work(3 * (vision(config) + keys_values(config) + tokens * (token(config, tokens) + head(config))))
