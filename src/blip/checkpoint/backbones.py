"""Starting weights of pre-training under our names: a ViT that knows ImageNet, and BERT.

Read are timm's names (DeiT: .pth, .safetensors), augreg's Flax arrays (.npz) and BERT (safetensors, .bin).
Source: salesforce/BLIP models/blip_pretrain.py and models/vit.py `_load_weights`, without their silence.
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

from blip.checkpoint import files, state_dict, tables
from blip.checkpoint.adapt import expected_shapes
from blip.checkpoint.locate import HF_WEIGHTS, HUB_ID, SUFFIXES, cached_url
from blip.checkpoint.tables import Rule
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
HASHED = re.compile(r"-([0-9a-f]{8,})\.\w+$")  # torch hub's habit: the name ends in digits of the file's SHA-256
BERT, VOCAB = "bert-base-uncased", "vocab.txt"

TIMM = tuple(replace(rule, theirs=rule.theirs.removeprefix("visual_encoder.")) for rule in tables.VISION["original"])
_BLOCK = "Transformer/encoderblock_{i}"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_1"
FLAX = (  # "weight" is their "scale" of a norm, else their "kernel"
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
FLAX_PREFIX = "opt/target/"  # of files that hold an optimizer's state too
# No part of BLIP: classifiers, sentence pairs, and BERT's token types (not folded into the words either).
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
GROWN = re.compile(r"(encoder|decoder)\.embed\.word\.weight|decoder\.lm_head\.bias")  # one row a word piece


def start_backbones(
    model: BlipModel, vision: str | Path | None, text: str | Path | None, *, offline: bool | None = None
) -> tuple[str, ...]:
    """Places `backbone_state` into a freshly built model; returns the names that stay random (shared ones twice).

    The two words that BERT does not have, [DEC] and [ENC], keep the model's own rows.
    """
    state = backbone_state(model.config, vision=vision, text=text, offline=offline)
    weights = model.state_dict()
    for name, tensor in state.items():
        weights[name][: len(tensor)].copy_(tensor)
    random = tuple(name for name in weights if name not in state)
    logger.info("%d tensors stay random: %s", len(random), ", ".join(random[:3]) + (", …" if random[3:] else ""))
    return random


def backbone_state(
    config: BlipConfig, *, vision: str | Path | None, text: str | Path | None, offline: bool | None = None
) -> State:
    """What a model of `config` can take from an image tower and a BERT, float32, under our names.

    vision: "deit-base", "augreg-large", a URL or a file; positions are resized to the model's grid. text:
    "bert-base-uncased", a hub id, folder or file; it goes to encoder and decoder, and its masked-LM head to the
    decoder. What pre-training shares is one tensor under both names. Word embeddings and the head's bias have the
    file's rows, two fewer than the model's. Raises CheckpointMismatch for an unknown key, another shape or another
    vocabulary, UnknownModel, OfflineError, ChecksumMismatch.
    """
    wanted = expected_shapes(config)
    state = {} if vision is None else _vision_state(vision, config, wanted, offline)
    if text is not None:
        state |= _text_state(text, config, wanted, offline)
    return state | {encoder: state[name] for encoder, name in tables.shared_names(config).items() if name in state}


def _vision_state(
    source: str | Path, config: BlipConfig, wanted: Mapping[str, torch.Size], offline: bool | None
) -> State:
    path = _obtain_vision(source, offline)
    flax = path.suffix == ".npz"
    theirs = _without_unused(_read_flax(path, config.vision.num_heads) if flax else files.read_state(path))
    names = _flax_names(config) if flax else tables.expand(TIMM, config)
    _check_names(theirs, names, f"{path} as an image tower of {config.vision.num_layers} layers")
    for name in theirs:
        if names[name] == ("vision.pos_embed",):
            theirs[name] = _resized(theirs[name], config.vision.num_tokens, path, bilinear=flax)
    return _placed(theirs, names, wanted, path)


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
    """The file of a URL; if the name tells how its SHA-256 begins, that is checked."""
    path = fetch.fetch(url, cached_url(url), offline=offline)
    digits = HASHED.search(url)
    digest = fetch.recorded_sha256(path) or fetch.sha256_of(path)
    if digits and not digest.startswith(digits[1]):
        fetch.remove(path)
        raise ChecksumMismatch(f"{url}: SHA-256 {digest[:12]}…, must begin with {digits[1]}; nothing was kept")
    return path


def _read_flax(path: Path, num_heads: int) -> State:
    """The arrays of a .npz under their own names without prefix, in torch's order of axes."""
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
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path}: damaged or no .npz of arrays ({reason})") from error
    query = state.get(f"{_ATTENTION}/query/kernel".replace("{i}", "0"))
    if query is not None and query.dim() == 3 and query.shape[1] != num_heads:
        raise CheckpointMismatch(f"{path}: {query.shape[1]} attention heads; the model has {num_heads}")
    return {name: _torch_order(name, array) for name, array in state.items()}


def _torch_order(name: str, array: Tensor) -> Tensor:
    """Flax puts inputs first and keeps heads apart: [h, w, C, D], [D, H, d] (query), [H, d, D] (out), [D, mlp]."""
    if array.dim() == 4:
        return array.permute(3, 2, 0, 1)
    if name.endswith("/out/kernel"):
        return array.reshape(-1, array.shape[-1]).T
    if name.endswith("/kernel"):
        return array.reshape(len(array), -1).T
    return array.flatten() if name.endswith("/bias") else array


def _flax_names(config: BlipConfig) -> Names:
    return {
        re.sub("weight$", "scale" if NORM.search(theirs) else "kernel", theirs): ours
        for theirs, ours in tables.expand(FLAX, config).items()
    }


def _resized(pos_embed: Tensor, num_tokens: int, path: Path, *, bilinear: bool) -> Tensor:
    """Position embeddings [1, N, D] for `num_tokens`: as timm 0.4.12 resizes those of .npz files, else bicubic."""
    patches = pos_embed.shape[1] - 1 if pos_embed.dim() == 3 else -1
    if patches < 1 or isqrt(patches) ** 2 != patches:
        raise CheckpointMismatch(
            f"{path}: position embeddings {list(pos_embed.shape)}; must be of a class token and a square grid"
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
    source: str | Path, config: BlipConfig, wanted: Mapping[str, torch.Size], offline: bool | None
) -> State:
    if config.vocab != BERT:
        raise CheckpointMismatch(f"'{source}' has the vocabulary '{BERT}'; the model's is '{config.vocab}'")
    path = _obtain_text(source, offline)
    theirs = _without_unused(_bert_names(files.read_state(path), path))
    encoder, decoder = (_bert_table(part, config) for part in ("encoder", "decoder"))
    _check_names(theirs, decoder, f"{path} as a BERT of {config.text.num_layers} layers")
    pieces = min(config.text.dec_id, config.text.enc_id)  # these two come after the words that BERT knows
    _check_vocabulary(theirs.get("embeddings.word_embeddings.weight"), pieces, path)
    shapes = {name: torch.Size([pieces, *size[1:]]) if GROWN.fullmatch(name) else size for name, size in wanted.items()}
    return _placed(theirs, encoder, shapes, path) | _placed(theirs, decoder, shapes, path)


def _obtain_text(source: str | Path, offline: bool | None) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        if str(source) != BERT and (path.suffix in SUFFIXES or not HUB_ID.fullmatch(str(source))):
            raise CheckpointError(f"{source}: no such file or folder; '{BERT}' and hub ids are allowed too")
        path = fetch.fetch_hub(str(source), ((VOCAB,), HF_WEIGHTS), offline=offline)
    weights = next((path / name for name in HF_WEIGHTS if (path / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{path}: no weights; needs {' or '.join(HF_WEIGHTS)}")
    return weights


def _bert_names(state: Mapping[str, Tensor], path: Path) -> State:
    """The same without `bert.`, with weight and bias for gamma and beta, and one name for what is stored twice."""
    named = {
        re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name.removeprefix("bert."))): tensor
        for name, tensor in state.items()
    }
    for alias, name in ((_bare(alias), _bare(name)) for alias, name in tables.ALIASES):
        if alias in named:
            tensor = named.pop(alias)
            if not torch.equal(tensor, named.setdefault(name, tensor)):
                raise CheckpointMismatch(f"{path}: {alias} and {name}: must be equal, BLIP has one tensor for both")
    return named


def _bert_table(part: str, config: BlipConfig) -> Names:
    """BERT's names -> ours of one part; the masked-LM head is the decoder's either way."""
    body = [replace(rule, ours=f"{part}.{rule.ours}") for rule in (*tables.REST, *tables.SELF)]
    return tables.expand([*body, *(replace(rule, theirs=_bare(rule.theirs)) for rule in tables.LM_HEAD)], config)


def _bare(name: str) -> str:
    """A name of the original's decoder as BERT has it."""
    return name.removeprefix("text_decoder.").removeprefix("bert.")


def _check_vocabulary(word: Tensor | None, pieces: int, path: Path) -> None:
    """By the number of rows, and by the words where their file lies beside the weights."""
    if word is not None and word.shape[:1] != (pieces,):
        rows = len(word) if word.dim() else 0
        raise CheckpointMismatch(f"{path}: embeddings of {rows} word pieces; must be the {pieces} of '{BERT}'")
    beside, bundled = path.with_name(VOCAB), ASSETS / f"{BERT}-{VOCAB}"
    if beside.is_file() and beside.read_bytes().split() != bundled.read_bytes().split():
        raise CheckpointMismatch(f"{beside}: another vocabulary; must be that of '{BERT}'")


def _without_unused(state: Mapping[str, Tensor]) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(UNUSED)}


def _check_names(state: Mapping[str, Tensor], names: Names, what: str) -> None:
    unexpected = [name for name in state if name not in names]
    if unexpected:
        raise state_dict.mismatch(what, [], unexpected)
    if not state:
        raise CheckpointMismatch(f"{what}: no weights in it")


def _placed(state: Mapping[str, Tensor], names: Names, wanted: Mapping[str, torch.Size], path: Path) -> State:
    """What the model has of `state`, under our names; fused tensors are cut up."""
    ours: State = {}
    for theirs, parts in names.items():
        if theirs in state and parts[0] in wanted:
            tensor, (rows, *rest) = state[theirs], wanted[parts[0]]
            if list(tensor.shape) != [rows * len(parts), *rest]:
                needed = [rows * len(parts), *rest]
                raise CheckpointMismatch(f"{path}: {theirs} is {list(tensor.shape)}; the model needs {needed}")
            ours |= zip(parts, tensor.float().chunk(len(parts)), strict=True)
    return ours
