"""Model configs: family, sizes, image normalisation, vocabulary and special ids. No torch, no files.

A config suffices to build the network and to prepare its inputs. Change it with `dataclasses.replace`; it is stored as
JSON beside the weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from blip_lite.errors import ConfigError, UnknownKey

Family = Literal["features", "caption", "retrieval", "vqa", "nlvr", "pretrain"]
Stem = Literal["none", "edgetpu"]
T = TypeVar("T")

# Ranges of the sizes of a transformer: far beyond all models, but small enough to fail before memory is full
SIZES: dict[str, tuple[float, float]] = {
    "width": (1, 10**5),
    "num_layers": (1, 1000),
    "mlp_width": (1, 10**6),
    "norm_eps": (0, 1),
}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilySpec:
    """Parts of a family. `encoder_reads` and `decoder_reads` name the sequence for cross-attention."""

    encoder_reads: Literal["image", "two images"] | None
    decoder_reads: Literal["image", "encoder"] | None
    matching: bool = False  # vision_proj, text_proj, itm_head, temperature
    shared: bool = False  # encoder and decoder share all weights but those of self-attention

    @property
    def capabilities(self) -> frozenset[str]:
        result = {"image"}
        if self.decoder_reads == "image":
            result |= {"caption", "sample"}
        if self.decoder_reads == "encoder":
            result.add("answer")
        if self.matching:
            result.add("match")
        if self.encoder_reads is not None:
            result.add("compare" if self.encoder_reads == "two images" else "text")
        return frozenset(result)


FAMILIES: dict[Family, FamilySpec] = {
    "features": FamilySpec(encoder_reads="image", decoder_reads=None),
    "caption": FamilySpec(encoder_reads=None, decoder_reads="image"),
    "retrieval": FamilySpec(encoder_reads="image", decoder_reads=None, matching=True),
    "vqa": FamilySpec(encoder_reads="image", decoder_reads="encoder"),
    "nlvr": FamilySpec(encoder_reads="two images", decoder_reads=None),
    "pretrain": FamilySpec(encoder_reads="image", decoder_reads="image", matching=True, shared=True),
}


def families_with(capability: str) -> list[Family]:
    """The families that can serve a call."""
    return [family for family, spec in FAMILIES.items() if capability in spec.capabilities]


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Image encoder: a ViT, optionally after a convolutional stem."""

    image_size: int = 384  # pixels, square
    patch_size: int = 16  # pixels per token and side, including the stride of the stem
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    drop_path: float = 0.0  # original: 0.1 for VQA, NLVR2 and every large model
    norm_eps: float = 1e-6
    stem: Stem = "none"
    class_tokens: int = 0  # with a stem: number of its top classes added as image tokens

    def __post_init__(self) -> None:
        sizes = {"image_size": (1, 8192), "patch_size": (1, 1024), "class_tokens": (0, 1000), "drop_path": (0, 0.99)}
        _check_ranges("vision.", self, SIZES | sizes)
        _check_width(self.width, self.num_heads, "vision")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"vision.image_size {self.image_size}: must be a multiple of patch_size {self.patch_size}"
            )
        if self.stem not in get_args(Stem):
            raise ConfigError(f"vision.stem '{self.stem}': must be one of {', '.join(get_args(Stem))}")

    @property
    def num_tokens(self) -> int:
        """Number of image tokens, including the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """Text transformer (BERT layout) and the special ids of its vocabulary."""

    vocab_size: int = 30524  # 30,522 word pieces, [DEC], [ENC]
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    max_length: int = 512
    norm_eps: float = 1e-12
    dropout: float = 0.1
    label_smoothing: float = 0.1
    nlvr_merge_from: int = 6  # first layer that merges the two images by a linear layer
    pad_id: int = 0
    unk_id: int = 100
    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103
    dec_id: int = 30522
    enc_id: int = 30523

    def __post_init__(self) -> None:
        sizes = {"vocab_size": (1, 10**7), "max_length": (1, 10**5), "dropout": (0, 0.99), "label_smoothing": (0, 0.99)}
        ids = ("pad_id", "unk_id", "cls_id", "sep_id", "mask_id", "dec_id", "enc_id")
        _check_ranges("text.", self, SIZES | sizes | dict.fromkeys(ids, (0, self.vocab_size - 1)))
        _check_width(self.width, self.num_heads, "text")


@dataclass(frozen=True, kw_only=True, slots=True)
class BlipConfig:
    """A complete model. `vocab` is the name of the bundled vocabulary or a file name beside the weights."""

    family: Family = "caption"
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    proj_width: int = 256
    prompt: str = "a picture of "
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    vocab: str = "bert-base-uncased"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"unknown family '{self.family}'; must be one of {', '.join(FAMILIES)}")
        _check_ranges("", self, {"proj_width": (1, 10**5)})
        if min(self.image_std) <= 0:
            raise ConfigError(f"image_std {list(self.image_std)}: must be above 0")

    @property
    def parts(self) -> FamilySpec:
        return FAMILIES[self.family]

    @property
    def capabilities(self) -> frozenset[str]:
        """The calls that the family can serve: caption, sample, answer, match, compare, text, image."""
        return FAMILIES[self.family].capabilities

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BlipConfig:
        """Inverse of `to_dict`. Raises UnknownKey with the most similar known name."""
        return from_values(cls, values)


def with_image_size(config: BlipConfig, image_size: int) -> BlipConfig:
    """The same model at another image size."""
    return replace(config, vision=replace(config.vision, image_size=image_size))


def from_values(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Build a dataclass from YAML or JSON values: nested mappings, lists, numbers possibly written as text.

    Raises ConfigError for values of a wrong type and UnknownKey for unknown keys.
    """
    names = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key in values:
        if key not in names:
            raise UnknownKey(prefix + key, names)
    return cls(**{key: _coerced(value, hints[key], prefix + key) for key, value in values.items()})


def _coerced(value: Any, hint: Any, key: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        # lists prefer a member for lists; everything else goes to the first member that accepts it
        options.sort(key=lambda a: (get_origin(a) is None) == isinstance(value, list | tuple))
        for i, option in enumerate(options):
            try:
                return _coerced(value, option, key)
            except ConfigError:
                if i == len(options) - 1:
                    raise
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{key} {value!r}: must be one of {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} {value!r}: must be a mapping")
        return from_values(hint, value, key + ".")  # type: ignore[arg-type]
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} {value!r}: must be a mapping")
        return dict(value)
    if origin in (tuple, Sequence):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{key} {value!r}: must be a list")
        fixed = origin is tuple and args[-1] is not Ellipsis
        if fixed and len(value) != len(args):
            raise ConfigError(f"{key} {list(value)}: must be a list of {len(args)}")
        inner = args if fixed else [args[0]] * len(value)
        return tuple(_coerced(v, h, key) for v, h in zip(value, inner, strict=True))
    return _scalar(value, hint, key)


def _scalar(value: Any, hint: Any, key: str) -> Any:
    if hint is float and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-4 as text
        except (TypeError, ValueError, OverflowError):
            pass
        else:
            if not math.isfinite(number):
                raise ConfigError(f"{key} {value}: must be a finite number")
            return number
    elif hint is Any or (
        isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    ):
        return value
    allowed = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    shown = repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:100]}…"
    raise ConfigError(f"{key} {shown}: must be {allowed.get(hint, getattr(hint, '__name__', hint))}")


def _check_ranges(part: str, config: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise ConfigError for a field outside its range; both ends are allowed."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ConfigError(f"{part}{name} {value}: must be from {low:,} to {high:,}")


def _check_width(width: int, num_heads: int, part: str) -> None:
    if num_heads < 1 or width % num_heads:
        raise ConfigError(f"{part}.num_heads {num_heads}: must divide {part}.width {width}")


BASE_VISION = VisionConfig()
LARGE_VISION = VisionConfig(width=1024, num_layers=24, num_heads=16, mlp_width=4096, drop_path=0.1)

# Image size of the published checkpoints of each family (blip-spec 2.3, 4.6).
PUBLISHED_IMAGE_SIZE: dict[str, int] = {
    "features": 224,
    "caption": 384,
    "retrieval": 384,
    "vqa": 480,
    "nlvr": 384,
    "pretrain": 224,
}


def published_config(family: Family, size: Literal["base", "large"] = "base") -> BlipConfig:
    """The config of the published checkpoints of a family, ViT-B or ViT-L."""
    vision = replace(LARGE_VISION if size == "large" else BASE_VISION, image_size=PUBLISHED_IMAGE_SIZE[family])
    if family in ("vqa", "nlvr"):
        vision = replace(vision, drop_path=0.1)
    return BlipConfig(family=family, vision=vision)


def random_tiny_config(family: Family = "pretrain") -> BlipConfig:
    """A very small model with the real vocabulary, for tests without files."""
    return BlipConfig(
        family=family,
        vision=VisionConfig(image_size=32, width=32, num_layers=2, num_heads=2, mlp_width=64),
        text=TextConfig(width=32, num_layers=2, num_heads=2, mlp_width=64, max_length=64, nlvr_merge_from=1),
        proj_width=16,
    )
