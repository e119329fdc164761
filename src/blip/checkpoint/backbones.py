"""Initial weights of pre-training: a ViT trained on ImageNet, and BERT.

Formats: timm (DeiT: .pth, .safetensors), augreg's Flax arrays (.npz) and BERT (safetensors, .bin).
Source: salesforce/BLIP models/blip_pretrain.py and models/vit.py `_load_weights`, but unknown keys are errors.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from blip.checkpoint import state_dict, tables
from blip.checkpoint.adapt import expected_shapes, log_random
from blip.checkpoint.locate import HUB_ID, SUFFIXES, WEIGHTS, cached_url, fetch_hub_model, find_weights
from blip.checkpoint.tables import Rule
from blip.checkpoint.weights_file import first_line, read_state, require_finite
from blip.io import fetch
from blip.model.blip import BlipModel
from blip.model.vision import resize_pos_embed
from blip_lite import ASSETS
from blip_lite.config import BlipConfig
from blip_lite.errors import CheckpointError, CheckpointMismatch, ChecksumMismatch, UnknownModel, did_you_mean

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
Names = dict[str, tuple[str, ...]]

VISION_URLS = {
    "deit-base": "https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth",
    "augreg-large": "https://storage.googleapis.com/vit_models/augreg/"
    "L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1.npz",
}
HASHED = re.compile(r"-([0-9a-f]{8,})\.\w+$")  # torch hub: the name ends with the first digits of the file's SHA-256
BERT, VOCAB = "bert-base-uncased", "vocab.txt"

TIMM = tuple(replace(rule, blip=f"vision.{rule.blip}") for rule in tables.VIT_TIMM)
_BLOCK = "Transformer/encoderblock_{i}"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_1"
FLAX = (  # "weight" is named "scale" in norms, else "kernel"
    Rule("vision.cls_token", "cls"),
    Rule("vision.pos_embed", "Transformer/posembed_input/pos_embedding"),
    Rule("vision.patch_embed.*", "embedding/*"),
    Rule("vision.blocks.{i}.norm1.*", f"{_BLOCK}/LayerNorm_0/*"),
    Rule("vision.blocks.{i}.attn.q.*", f"{_ATTENTION}/query/*"),
    Rule("vision.blocks.{i}.attn.k.*", f"{_ATTENTION}/key/*"),
    Rule("vision.blocks.{i}.attn.v.*", f"{_ATTENTION}/value/*"),
    Rule("vision.blocks.{i}.attn.out.*", f"{_ATTENTION}/out/*"),
    Rule("vision.blocks.{i}.norm2.*", f"{_BLOCK}/LayerNorm_2/*"),
    Rule("vision.blocks.{i}.mlp.fc1.*", f"{_BLOCK}/MlpBlock_3/Dense_0/*"),
    Rule("vision.blocks.{i}.mlp.fc2.*", f"{_BLOCK}/MlpBlock_3/Dense_1/*"),
    Rule("vision.norm.*", "Transformer/encoder_norm/*"),
)
NORM = re.compile(r"(LayerNorm_\d|encoder_norm)/")
HEAD = "cls.predictions."  # of BERT's masked-LM head; a file may hold the encoder alone
FLAX_PREFIX = "opt/target/"  # in files with optimizer state
# Not part of BLIP: classifiers, sentence pairs, and BERT's token types (not added to the words either).
UNUSED = (
    "head.",
    "head/",
    "pre_logits.",
    "pre_logits/",
    "pooler.",
    "cls.seq_relationship.",
    "embeddings.token_type_embeddings.",
    "embeddings.position_ids",
)
GROWN = re.compile(r"(encoder|decoder)\.embed\.word\.weight|decoder\.lm_head\.bias")  # one row per word piece


def start_backbones(
    model: BlipModel, vision: str | Path | None, text: str | Path | None, *, offline: bool | None = None
) -> tuple[str, ...]:
    """Copy `backbone_state` into a model; return the names that stay random (shared ones twice).

    Rows of [DEC] and [ENC], which BERT does not have, keep their initial values.
    """
    state = backbone_state(model.config, vision=vision, text=text, offline=offline)
    weights = model.state_dict()
    for name, tensor in state.items():
        weights[name][: len(tensor)].copy_(tensor)
    random = tuple(name for name in weights if name not in state)
    log_random(random)
    return random


def backbone_state(
    config: BlipConfig, *, vision: str | Path | None, text: str | Path | None, offline: bool | None = None
) -> State:
    """Weights for a model of `config` from an image tower and a BERT: float32, blip layout.

    vision: "deit-base", "augreg-large", a URL or a file; position embeddings are resized. text: "bert-base-uncased",
    a hub id, folder or file; used for encoder and decoder, its masked-LM head for the decoder. Shared tensors of
    pre-training are one object under both names. Word embeddings and the head's bias have the file's rows, two fewer
    than the model's. Raises CheckpointMismatch for an unknown key, another shape or another vocabulary, UnknownModel,
    OfflineError, ChecksumMismatch.
    """
    shapes = expected_shapes(config)
    state = {} if vision is None else _vision_state(vision, config, shapes, offline)
    if text is not None:
        state |= _text_state(text, config, shapes, offline)
    return state | {encoder: state[name] for encoder, name in tables.shared_names(config).items() if name in state}


def _vision_state(
    source: str | Path, config: BlipConfig, shapes: Mapping[str, torch.Size], offline: bool | None
) -> State:
    path = _obtain_vision(source, offline)
    flax = path.suffix.lower() == ".npz"
    state = _without_unused(_read_flax(path, config.vision.num_heads) if flax else read_state(path))
    names = _flax_names(config) if flax else tables.expand(TIMM, config)
    _check_names(state, names, f"{path} as an image tower of {config.vision.num_layers} layers")
    for name in state:
        if names[name] == ("vision.pos_embed",):
            state[name] = _resize(state[name], config.vision.num_tokens, path, bilinear=flax)
    return _take(state, names, shapes, path)


def _obtain_vision(source: str | Path, offline: bool | None) -> Path:
    url = VISION_URLS.get(str(source), str(source))
    if url.startswith(("http://", "https://")):
        return _fetch_hashed(url, offline)
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise CheckpointError(f"{source}: no such file")
    known = did_you_mean(url, VISION_URLS) or f"; must be {', '.join(VISION_URLS)}, a URL or a .pth or .npz file"
    raise UnknownModel(f"unknown image tower '{source}'{known}")


def _fetch_hashed(url: str, offline: bool | None) -> Path:
    """Fetch a URL; the SHA-256 is checked if the name contains its first digits."""
    path = fetch.fetch(url, cached_url(url), offline=offline)
    digits = HASHED.search(url)
    digest = fetch.recorded_sha256(path) or fetch.sha256_of(path)
    if digits and not digest.startswith(digits[1]):
        fetch.remove(path)
        raise ChecksumMismatch(f"{url}: SHA-256 {digest[:12]}…, must begin with {digits[1]}; the file was deleted")
    return path


def _read_flax(path: Path, num_heads: int) -> State:
    """Arrays of a .npz by their names without prefix, with torch's order of axes."""
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            prefix = FLAX_PREFIX if any(name.startswith(FLAX_PREFIX) for name in arrays.files) else ""
            state = {
                name.removeprefix(prefix): torch.from_numpy(np.atleast_1d(arrays[name]))
                for name in arrays.files
                if name.startswith(prefix)
            }
    except Exception as error:  # damaged archives raise nearly anything
        raise CheckpointError(f"{path}: damaged or not a .npz of arrays ({first_line(error)})") from error
    query = state.get(f"{_ATTENTION}/query/kernel".replace("{i}", "0"))
    if query is not None and query.dim() == 3 and query.shape[1] != num_heads:
        raise CheckpointMismatch(f"{path}: {query.shape[1]} attention heads; the model has {num_heads}")
    return {name: _torch_order(name, array) for name, array in state.items()}


def _torch_order(name: str, array: Tensor) -> Tensor:
    """Convert Flax's axes, inputs first and heads separate: [h, w, C, D], [D, H, d] (q), [H, d, D] (out), [D, mlp]."""
    if array.dim() == 4:
        return array.permute(3, 2, 0, 1)
    if name.endswith("/out/kernel"):
        return array.reshape(-1, array.shape[-1]).T
    if name.endswith("/kernel"):
        return array.reshape(len(array), -1).T
    return array.flatten() if name.endswith("/bias") else array


def _flax_names(config: BlipConfig) -> Names:
    return {
        re.sub("weight$", "scale" if NORM.search(name) else "kernel", name): parts
        for name, parts in tables.expand(FLAX, config).items()
    }


def _resize(pos_embed: Tensor, num_tokens: int, path: Path, *, bilinear: bool) -> Tensor:
    """Position embeddings [1, N, D] resized to `num_tokens`: bilinear (timm 0.4.12, .npz files) or bicubic."""
    patches = pos_embed.shape[1] - 1 if pos_embed.dim() == 3 else -1
    if patches < 1 or isqrt(patches) ** 2 != patches:
        raise CheckpointMismatch(
            f"{path}: position embeddings {list(pos_embed.shape)}; must be of [CLS] and a square grid"
        )
    if patches + 1 == num_tokens:
        return pos_embed
    logger.info("%s: positions resized from %d to %d tokens", path, patches + 1, num_tokens)
    if not bilinear:
        return resize_pos_embed(pos_embed.float(), num_tokens)
    old, new = isqrt(patches), isqrt(num_tokens - 1)
    grid = pos_embed.float()[:, 1:].reshape(1, old, old, -1).movedim(-1, 1)  # [1, D, old, old]
    grid = F.interpolate(grid, size=(new, new), mode="bilinear", align_corners=False)
    return torch.cat([pos_embed.float()[:, :1], grid.flatten(2).mT], dim=1)


def _text_state(
    source: str | Path, config: BlipConfig, shapes: Mapping[str, torch.Size], offline: bool | None
) -> State:
    if config.vocab != BERT:
        raise CheckpointMismatch(f"'{source}' has the vocabulary '{BERT}'; the model's is '{config.vocab}'")
    path = _obtain_text(source, offline)
    state = _without_unused(_bert_names(read_state(path), path))
    encoder, decoder = (_bert_table(part, config) for part in ("encoder", "decoder"))
    _check_names(state, decoder, f"{path} as a BERT of {config.text.num_layers} layers")
    pieces = min(config.text.dec_id, config.text.enc_id)  # these two come after BERT's words
    _check_vocabulary(state.get("embeddings.word_embeddings.weight"), pieces, path)
    shapes = {name: torch.Size([pieces, *size[1:]]) if GROWN.fullmatch(name) else size for name, size in shapes.items()}
    return _take(state, encoder, shapes, path) | _take(state, decoder, shapes, path)


def _obtain_text(source: str | Path, offline: bool | None) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        if str(source) != BERT and (path.suffix.lower() in SUFFIXES or not HUB_ID.fullmatch(str(source))):
            raise CheckpointError(f"{source}: no such file or folder; '{BERT}' and hub ids are allowed too")
        path = fetch_hub_model(str(source), VOCAB, offline=offline)
    weights = find_weights(path)
    if weights is None:
        raise CheckpointError(f"{path}: no weights; needs {WEIGHTS}, pytorch_model.bin or an index of shards")
    return weights


def _bert_names(state: Mapping[str, Tensor], path: Path) -> State:
    """The state without the prefix `bert.`, with weight and bias for gamma and beta, without aliases."""
    named = {
        re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name.removeprefix("bert."))): tensor
        for name, tensor in state.items()
    }
    aliases = [(_bert_name(alias), _bert_name(name)) for alias, name in tables.ALIASES]
    state_dict.fold_aliases(named, aliases, f"{path}: ")
    return named


def _bert_table(part: str, config: BlipConfig) -> Names:
    """BERT's names -> names of one part; the masked-LM head always belongs to the decoder."""
    body = [replace(rule, blip=f"{part}.{rule.blip}") for rule in (*tables.REST, *tables.SELF)]
    return tables.expand([*body, *(replace(rule, other=_bert_name(rule.other)) for rule in tables.LM_HEAD)], config)


def _bert_name(name: str) -> str:
    """BERT's name of a tensor of the original's decoder."""
    return name.removeprefix("text_decoder.").removeprefix("bert.")


def _check_vocabulary(word: Tensor | None, pieces: int, path: Path) -> None:
    """Check the number of rows, and the words if the folder of the weights contains them."""
    if word is not None and word.shape[:1] != (pieces,):
        rows = len(word) if word.dim() else 0
        raise CheckpointMismatch(f"{path}: embeddings of {rows} word pieces; must be the {pieces} of '{BERT}'")
    vocab, bundled = path.with_name(VOCAB), ASSETS / f"{BERT}-{VOCAB}"
    if vocab.is_file() and vocab.read_bytes().split() != bundled.read_bytes().split():
        raise CheckpointMismatch(f"{vocab}: another vocabulary; must be that of '{BERT}'")


def _without_unused(state: Mapping[str, Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(UNUSED)}


def _check_names(state: Mapping[str, Tensor], names: Names, what: str) -> None:
    """Raise CheckpointMismatch for unknown and missing names; only the masked-LM head may be missing as a whole."""
    if not state:
        raise CheckpointMismatch(f"{what}: no weights in it")
    has_head = any(name.startswith(HEAD) for name in state)
    missing = [name for name in names if name not in state and (has_head or not name.startswith(HEAD))]
    unexpected = [name for name in state if name not in names]
    if missing or unexpected:
        raise state_dict.mismatch(what, missing, unexpected)


def _take(state: Mapping[str, Tensor], names: Names, shapes: Mapping[str, torch.Size], path: Path) -> State:
    """The tensors that the model has, renamed, as float32; fused tensors are split."""
    result: State = {}
    for name, parts in names.items():
        if name in state and parts[0] in shapes:
            tensor, (rows, *rest) = state[name], shapes[parts[0]]
            required = [rows * len(parts), *rest]
            if list(tensor.shape) != required:
                raise CheckpointMismatch(f"{path}: {name} is {list(tensor.shape)}; the model needs {required}")
            values = require_finite(tensor, f"{path}: {name}").float()
            result |= zip(parts, values.chunk(len(parts)), strict=True)
    return result
