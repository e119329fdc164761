"""Files in each layout, written by the tests with different random numbers for all weights."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from blip.checkpoint.adapt import expected_shapes
from blip.checkpoint.backbones import BERT, VISION_URLS, backbone_state, start_backbones
from blip.checkpoint.locate import cached_url
from blip.model.blip import BlipModel
from blip.model.vision import resize_pos_embed
from blip_lite import ASSETS
from blip_lite.config import BlipConfig, Family, TextConfig, VisionConfig, with_image_size
from blip_lite.errors import CheckpointError, CheckpointMismatch, ChecksumMismatch, OfflineError, UnknownModel

State = dict[str, Tensor]
D, HEADS, MLP = 12, 3, 20  # of the image tower
SMALL = BlipConfig(
    family="pretrain",
    vision=VisionConfig(image_size=32, width=D, num_layers=2, num_heads=HEADS, mlp_width=MLP),
    text=TextConfig(
        vocab_size=52,
        unk_id=1,
        cls_id=2,
        sep_id=3,
        mask_id=4,
        width=16,
        num_layers=2,
        num_heads=2,
        mlp_width=24,
        max_length=20,
        dec_id=50,
        enc_id=51,
    ),
    proj_width=8,
)
PIECES = 50
BUNDLED = ASSETS / "bert-base-uncased-vocab.txt"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def numbers(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def timm_state() -> State:
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, D),
        "pos_embed": (1, 5, D),
        "patch_embed.proj.weight": (D, 3, 16, 16),
        "patch_embed.proj.bias": (D,),
        "norm.weight": (D,),
        "norm.bias": (D,),
        "head.weight": (7, D),
        "head.bias": (7,),
    }
    for i in range(2):
        block: dict[str, tuple[int, ...]] = {
            "norm1.weight": (D,),
            "norm1.bias": (D,),
            "attn.qkv.weight": (3 * D, D),
            "attn.qkv.bias": (3 * D,),
            "attn.proj.weight": (D, D),
            "attn.proj.bias": (D,),
            "norm2.weight": (D,),
            "norm2.bias": (D,),
            "mlp.fc1.weight": (MLP, D),
            "mlp.fc1.bias": (MLP,),
            "mlp.fc2.weight": (D, MLP),
            "mlp.fc2.bias": (D,),
        }
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return numbers(shapes)


def flax_state() -> State:
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, D),
        "embedding/kernel": (16, 16, 3, D),
        "embedding/bias": (D,),
        "head/kernel": (D, 7),
        "head/bias": (7,),
        "Transformer/posembed_input/pos_embedding": (1, 5, D),
        "Transformer/encoder_norm/scale": (D,),
        "Transformer/encoder_norm/bias": (D,),
    }
    for i in range(2):
        attention = "MultiHeadDotProductAttention_1/"
        block: dict[str, tuple[int, ...]] = {
            "LayerNorm_0/scale": (D,),
            "LayerNorm_0/bias": (D,),
            "LayerNorm_2/scale": (D,),
            "LayerNorm_2/bias": (D,),
            "MlpBlock_3/Dense_0/kernel": (D, MLP),
            "MlpBlock_3/Dense_0/bias": (MLP,),
            "MlpBlock_3/Dense_1/kernel": (MLP, D),
            "MlpBlock_3/Dense_1/bias": (D,),
            f"{attention}out/kernel": (HEADS, D // HEADS, D),
            f"{attention}out/bias": (D,),
        }
        for part in ("query", "key", "value"):
            block |= {f"{attention}{part}/kernel": (D, HEADS, D // HEADS), f"{attention}{part}/bias": (HEADS, 4)}
        shapes |= {f"Transformer/encoderblock_{i}/{name}": shape for name, shape in block.items()}
    return numbers(shapes)


def bert_state() -> State:
    """Names of the published file: with `bert.`, gamma and beta, and the tensors that BLIP does not use."""
    width, mlp = 16, 24
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (PIECES, width),
        "bert.embeddings.position_embeddings.weight": (20, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        "bert.embeddings.LayerNorm.gamma": (width,),
        "bert.embeddings.LayerNorm.beta": (width,),
        "bert.pooler.dense.weight": (width, width),
        "bert.pooler.dense.bias": (width,),
        "cls.predictions.transform.dense.weight": (width, width),
        "cls.predictions.transform.dense.bias": (width,),
        "cls.predictions.transform.LayerNorm.gamma": (width,),
        "cls.predictions.transform.LayerNorm.beta": (width,),
        "cls.predictions.bias": (PIECES,),
        "cls.seq_relationship.weight": (2, width),
        "cls.seq_relationship.bias": (2,),
    }
    for i in range(2):
        dense = {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "intermediate.dense": (mlp, width),
            "output.dense": (width, mlp),
        }
        for name, shape in dense.items():
            shapes |= {
                f"bert.encoder.layer.{i}.{name}.weight": shape,
                f"bert.encoder.layer.{i}.{name}.bias": shape[:1],
            }
        for name in ("attention.output", "output"):
            shapes |= {f"bert.encoder.layer.{i}.{name}.LayerNorm.{kind}": (width,) for kind in ("gamma", "beta")}
    state = numbers(shapes)
    return state | {"cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"].clone()}


def plain(state: State) -> State:
    """The same as saved by the encoder class: without `bert.`, with weight and bias, no head."""
    return {
        name.removeprefix("bert.").replace("gamma", "weight").replace("beta", "bias"): tensor
        for name, tensor in state.items()
        if name.startswith("bert.")
    }


def write_npz(path: Path, state: State, prefix: str = "") -> Path:
    np.savez(path, **{prefix + name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]
    return path


def write(path: Path, state: State) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        return write_npz(path, state)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state} if path.suffix == ".pth" else state, path)
    return path


def vision_of(path: Path, config: BlipConfig = SMALL) -> State:
    return backbone_state(config, vision=path, text=None)


def text_of(path: Path | str, config: BlipConfig = SMALL) -> State:
    return backbone_state(config, vision=None, text=path, offline=True)


def timm_forward(w: State, pixels: Tensor) -> Tensor:
    """A ViT computed with timm's tensors: the fused rows are q, k, v, each by head."""
    x = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=16).flatten(2).mT
    x = torch.cat([w["cls_token"].expand(len(x), 1, D), x], dim=1) + w["pos_embed"]
    for i in range(2):
        b = {name.removeprefix(f"blocks.{i}."): tensor for name, tensor in w.items()}
        y = F.layer_norm(x, (D,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        qkv = (y @ b["attn.qkv.weight"].T + b["attn.qkv.bias"]).reshape(len(x), 5, 3, HEADS, 4).permute(2, 0, 3, 1, 4)
        y = ((qkv[0] @ qkv[1].mT / 2).softmax(dim=-1) @ qkv[2]).transpose(1, 2).flatten(2)
        x = x + y @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        y = F.layer_norm(x, (D,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        y = F.gelu(y @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
        x = x + y @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]
    return F.layer_norm(x, (D,), w["norm.weight"], w["norm.bias"], 1e-6)


def flax_forward(w: State, pixels: Tensor) -> Tensor:
    """The same with Flax's tensors: inputs times kernels, heads as a separate axis."""
    patches = pixels.unfold(2, 16, 16).unfold(3, 16, 16)  # [B, C, rows, columns, h, w]
    x = torch.einsum("bcijhw,hwcd->bijd", patches, w["embedding/kernel"]).flatten(1, 2) + w["embedding/bias"]
    x = torch.cat([w["cls"].expand(len(x), 1, D), x], dim=1) + w["Transformer/posembed_input/pos_embedding"]
    for i in range(2):
        b = {name.removeprefix(f"Transformer/encoderblock_{i}/"): tensor for name, tensor in w.items()}
        a = {name.removeprefix("MultiHeadDotProductAttention_1/"): tensor for name, tensor in b.items()}
        y = F.layer_norm(x, (D,), b["LayerNorm_0/scale"], b["LayerNorm_0/bias"], 1e-6)
        q, k, v = (
            torch.einsum("bnd,dhk->bhnk", y, a[f"{part}/kernel"]) + a[f"{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        y = (torch.einsum("bhnk,bhmk->bhnm", q, k) / 2).softmax(dim=-1)
        x = x + torch.einsum("bhnm,bhmk,hkd->bnd", y, v, a["out/kernel"]) + a["out/bias"]
        y = F.layer_norm(x, (D,), b["LayerNorm_2/scale"], b["LayerNorm_2/bias"], 1e-6)
        y = F.gelu(y @ b["MlpBlock_3/Dense_0/kernel"] + b["MlpBlock_3/Dense_0/bias"])
        x = x + y @ b["MlpBlock_3/Dense_1/kernel"] + b["MlpBlock_3/Dense_1/bias"]
    return F.layer_norm(x, (D,), w["Transformer/encoder_norm/scale"], w["Transformer/encoder_norm/bias"], 1e-6)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_file_has_each_tensor_of_the_tower(tmp_path: Path, suffix: str) -> None:
    theirs = timm_state()
    ours = vision_of(write(tmp_path / f"a{suffix}", theirs))
    assert set(ours) == {name for name in expected_shapes(SMALL) if name.startswith("vision.")}
    for i in range(2):
        for kind in ("weight", "bias"):
            pieces = [ours.pop(f"vision.blocks.{i}.attn.{part}.{kind}") for part in "qkv"]
            assert torch.equal(torch.cat(pieces), theirs[f"blocks.{i}.attn.qkv.{kind}"])
    for name, tensor in ours.items():
        same = name.removeprefix("vision.").replace("attn.out", "attn.proj").replace("patch_embed", "patch_embed.proj")
        assert torch.equal(tensor, theirs[same]), name


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_flax_file_has_each_tensor_of_the_tower_in_torch_order_of_axes(tmp_path: Path, prefix: str) -> None:
    theirs = flax_state()
    optimizer = {} if not prefix else {"opt/state/step": torch.tensor(3.0)}
    path = write_npz(tmp_path / "a.npz", {prefix + name: tensor for name, tensor in theirs.items()} | optimizer)
    ours = vision_of(path)
    assert set(ours) == {name for name in expected_shapes(SMALL) if name.startswith("vision.")}
    block, attention = "Transformer/encoderblock_1/", "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/"
    for row, column in ((0, 0), (3, 7), (11, 5)):  # output `row` is element row % 4 of head row // 4
        for ours_part, part in (("q", "query"), ("k", "key"), ("v", "value")):
            weight = ours[f"vision.blocks.1.attn.{ours_part}.weight"]
            assert weight[row, column] == theirs[f"{attention}{part}/kernel"][column, row // 4, row % 4]
            bias = ours[f"vision.blocks.1.attn.{ours_part}.bias"]
            assert bias[row] == theirs[f"{attention}{part}/bias"][row // 4, row % 4]
        out = ours["vision.blocks.1.attn.out.weight"]
        assert out[row, column] == theirs[f"{attention}out/kernel"][column // 4, column % 4, row]
    assert torch.equal(ours["vision.blocks.1.mlp.fc1.weight"], theirs[f"{block}MlpBlock_3/Dense_0/kernel"].T)
    assert torch.equal(ours["vision.blocks.1.norm2.weight"], theirs[f"{block}LayerNorm_2/scale"])
    assert ours["vision.patch_embed.weight"][5, 2, 3, 9] == theirs["embedding/kernel"][3, 9, 2, 5]
    assert torch.equal(ours["vision.pos_embed"], theirs["Transformer/posembed_input/pos_embedding"])
    assert torch.equal(ours["vision.norm.bias"], theirs["Transformer/encoder_norm/bias"])


@pytest.mark.parametrize("layout", ["timm", "flax"])
def test_tower_computes_the_same_as_the_tensors_of_the_file(tmp_path: Path, layout: str) -> None:
    theirs = timm_state() if layout == "timm" else flax_state()
    path = write(tmp_path / ("a.pth" if layout == "timm" else "a.npz"), theirs)
    model = BlipModel(SMALL).eval()
    start_backbones(model, path, None)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = (timm_forward if layout == "timm" else flax_forward)(theirs, pixels)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(pixels), expected, atol=2e-5, rtol=0)


def test_positions_of_another_grid_are_bicubic_from_timm_and_bilinear_from_flax(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    larger = with_image_size(SMALL, 64)
    theirs = timm_state()["pos_embed"]
    with caplog.at_level(logging.INFO):
        cubic = vision_of(write(tmp_path / "a.pth", timm_state()), larger)["vision.pos_embed"]
    assert torch.equal(cubic, resize_pos_embed(theirs, 17))
    assert "positions resized from 5 to 17 tokens" in caplog.text
    linear = vision_of(write(tmp_path / "a.npz", flax_state()), larger)["vision.pos_embed"]
    grid = flax_state()["Transformer/posembed_input/pos_embedding"]
    # 2 to 4 per side: centres at 0 (beyond the edge), 1/4, 3/4 and 1
    share = torch.tensor([0.0, 0.25, 0.75, 1.0])
    corners = grid[0, 1:].reshape(2, 2, D)
    rows = corners[0] * (1 - share)[:, None, None] + corners[1] * share[:, None, None]  # [4, 2, D]
    expected = rows[:, :1] * (1 - share)[:, None] + rows[:, 1:] * share[:, None]
    torch.testing.assert_close(linear[0, 1:], expected.reshape(16, D), atol=1e-6, rtol=0)
    assert torch.equal(linear[:, 0], grid[:, 0])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_bert_goes_to_encoder_and_decoder(tmp_path: Path, name: str) -> None:
    theirs = bert_state()
    write(tmp_path / name, theirs)
    ours = text_of(tmp_path)
    for part in ("encoder", "decoder"):
        for i in range(2):
            block, layer = f"{part}.blocks.{i}.", f"bert.encoder.layer.{i}."
            assert torch.equal(ours[f"{block}attn.k.weight"], theirs[f"{layer}attention.self.key.weight"])
            assert torch.equal(ours[f"{block}attn.out.bias"], theirs[f"{layer}attention.output.dense.bias"])
            assert torch.equal(ours[f"{block}attn_norm.weight"], theirs[f"{layer}attention.output.LayerNorm.gamma"])
            assert torch.equal(ours[f"{block}mlp.fc1.weight"], theirs[f"{layer}intermediate.dense.weight"])
            assert torch.equal(ours[f"{block}mlp.fc2.bias"], theirs[f"{layer}output.dense.bias"])
            assert torch.equal(ours[f"{block}mlp_norm.bias"], theirs[f"{layer}output.LayerNorm.beta"])
        assert torch.equal(ours[f"{part}.embed.word.weight"], theirs["bert.embeddings.word_embeddings.weight"])
        assert torch.equal(ours[f"{part}.embed.position.weight"], theirs["bert.embeddings.position_embeddings.weight"])
        assert torch.equal(ours[f"{part}.embed.norm.bias"], theirs["bert.embeddings.LayerNorm.beta"])
    assert torch.equal(ours["decoder.lm_head.fc.weight"], theirs["cls.predictions.transform.dense.weight"])
    assert torch.equal(ours["decoder.lm_head.norm.weight"], theirs["cls.predictions.transform.LayerNorm.gamma"])
    assert torch.equal(ours["decoder.lm_head.bias"], theirs["cls.predictions.bias"])
    left_out = {name for name in expected_shapes(SMALL) if name.startswith(("encoder.", "decoder."))} - set(ours)
    assert left_out and all(".cross" in name for name in left_out)


def test_shared_tensors_are_one_under_both_names(tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in bert_state().items()}
    ours = text_of(write(tmp_path / "model.safetensors", half))
    for name in ("embed.word.weight", "embed.norm.weight", "blocks.1.mlp.fc1.weight", "blocks.0.mlp_norm.bias"):
        assert ours[f"encoder.{name}"] is ours[f"decoder.{name}"] and ours[f"encoder.{name}"].dtype == torch.float32
    assert ours["encoder.blocks.0.attn.q.weight"] is not ours["decoder.blocks.0.attn.q.weight"]


def test_encoder_file_has_the_same_tensors_without_the_head(tmp_path: Path) -> None:
    whole = text_of(write(tmp_path / "whole.bin", bert_state()))
    bare = text_of(write(tmp_path / "bare.bin", plain(bert_state())))
    assert set(whole) - set(bare) == {name for name in whole if "lm_head" in name}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in bare.items())


def test_new_words_and_missing_tensors_keep_their_initial_values(tmp_path: Path) -> None:
    vision = write(tmp_path / "a.npz", flax_state())
    text = write(tmp_path / "a.safetensors", bert_state())
    model = BlipModel(SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = start_backbones(model, vision, text)
    state = model.state_dict()
    word = "decoder.embed.word.weight"
    assert torch.equal(state[word][:PIECES], bert_state()["bert.embeddings.word_embeddings.weight"])
    assert torch.equal(state[word][PIECES:], before[word][PIECES:]) and before[word][PIECES:].abs().min() > 0
    assert torch.equal(state["decoder.lm_head.bias"][PIECES:], torch.zeros(2))
    assert model.encoder.embed.word.weight is model.decoder.embed.word.weight
    assert all(torch.equal(state[name], before[name]) for name in random)
    heads = {name for name in random if ".cross" not in name}
    assert heads == {
        f"{head}.{kind}" for head in ("vision_proj", "text_proj", "itm_head") for kind in ("weight", "bias")
    } | {"temperature"}
    assert sum(".cross" in name for name in random) == 2 * 2 * 10  # encoder and decoder, two layers


def test_names_of_random_tensors_are_returned_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = BlipModel(SMALL)
    with caplog.at_level(logging.INFO):
        random = start_backbones(model, None, write(tmp_path / "a.bin", bert_state()))
    assert {"vision.cls_token", "vision.blocks.1.mlp.fc2.bias"} <= set(random)
    assert f"{len(random)} tensors stay random: temperature, vision.cls_token" in caplog.text
    assert set(start_backbones(model, None, None)) == set(expected_shapes(SMALL))


@pytest.mark.parametrize("family", ["caption", "retrieval", "vqa", "nlvr", "features"])
def test_other_families_load_their_parts(tmp_path: Path, family: Family) -> None:
    config = replace(SMALL, family=family, text=replace(SMALL.text, nlvr_merge_from=1))
    vision, text = write(tmp_path / "a.pth", timm_state()), write(tmp_path / "a.bin", bert_state())
    random = start_backbones(BlipModel(config), vision, text)
    heads = ("vision_proj", "text_proj", "itm_head", "nlvr_head", "temperature")
    assert all(".cross" in name or name.startswith(heads) for name in random)


def test_text_towers_compute_what_bert_computes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=PIECES,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=20,
            initializer_range=0.3,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        theirs.bert.embeddings.token_type_embeddings.weight.zero_()
    theirs.save_pretrained(tmp_path)
    model = BlipModel(SMALL).eval()
    start_backbones(model, None, tmp_path)
    ids = torch.randint(0, PIECES, (3, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        real = mask.bool()
        hidden = model.encode_text(ids, mask)
        torch.testing.assert_close(hidden[real], expected.hidden_states[-1][real], atol=1e-5, rtol=0)
        logits = model.decoder.logits(model.decoder(ids, mask))[..., :PIECES]
        torch.testing.assert_close(logits[real], expected.logits[real], atol=1e-5, rtol=0)
    assert float(expected.logits[real].std()) > 0.3  # depends on the words, or agreement would prove little


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: timm_state() | {"dist_token": torch.zeros(1, 1, D)}, r"2 layers: 1 unexpected key \(dist_token\)"),
        (lambda: timm_state() | {"blocks.2.norm1.bias": torch.zeros(D)}, r"unexpected key \(blocks.2.norm1.bias\)"),
        (lambda: timm_state() | {"norm.bias": torch.zeros(9)}, r"norm.bias is \[9\]; the model needs \[12\]"),
        (lambda: timm_state() | {"blocks.0.attn.qkv.bias": torch.zeros(12)}, r"is \[12\]; the model needs \[36\]"),
        (lambda: timm_state() | {"pos_embed": torch.zeros(1, 7, D)}, r"\[1, 7, 12\]; must be of \[CLS\] and"),
        (lambda: {"head.bias": torch.zeros(7)}, "no weights in it"),
        (bert_state, r"as an image tower of 2 layers: \d+ missing keys .*; \d+ unexpected keys"),
        (lambda: {k: v for k, v in timm_state().items() if k != "norm.bias"}, r"1 missing key \(norm.bias\)"),
        (lambda: timm_state() | {"norm.bias": torch.full((D,), torch.nan)}, "norm.bias has 12 values that are NaN"),
    ],
)
def test_image_tower_that_does_not_fit_is_refused(tmp_path: Path, state: object, message: str) -> None:
    path = write(tmp_path / "a.pth", state())  # type: ignore[operator]
    with pytest.raises(CheckpointMismatch, match=message) as error:
        vision_of(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_flax_tower_with_other_heads_or_a_stem_in_the_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", flax_state())
    with pytest.raises(CheckpointMismatch, match="3 attention heads; the model has 2"):
        vision_of(path, replace(SMALL, vision=replace(SMALL.vision, num_heads=2)))
    stem = VisionConfig(image_size=64, patch_size=32, width=D, num_layers=2, num_heads=3, mlp_width=MLP, stem="edgetpu")
    with pytest.raises(CheckpointMismatch, match=r"embedding/kernel is \[12, 3, 16, 16\]; the model needs \[12, 1280"):
        vision_of(path, replace(SMALL, vision=stem))


@pytest.mark.parametrize("content", [b"", b"no arrays at all", b"PK\x03\x04broken"])
def test_damaged_npz_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.npz: damaged or not a \.npz") as error:
        vision_of(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_hostile_npz_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", cls=np.array([Hostile(tmp_path / "ran")], dtype=object))
    with pytest.raises(CheckpointError, match=r"damaged or not a .npz of arrays \(Object arrays cannot be loaded"):
        vision_of(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: bert_state() | {"bert.embeddings.extra.weight": torch.zeros(1)}, "unexpected key"),
        (lambda: bert_state() | {"bert.encoder.layer.2.output.dense.bias": torch.zeros(16)}, "as a BERT of 2 layers"),
        (lambda: bert_state() | {"bert.embeddings.LayerNorm.beta": torch.zeros(9)}, r"LayerNorm.bias is \[9\]; the m"),
        (lambda: bert_state() | {"cls.predictions.decoder.weight": torch.zeros(PIECES, 16)}, "must be equal"),
        (lambda: {"bert.pooler.dense.bias": torch.zeros(16)}, "no weights in it"),
        (timm_state, r"as a BERT of 2 layers: \d+ missing keys .*; \d+ unexpected keys"),
    ],
)
def test_bert_that_does_not_fit_is_refused(tmp_path: Path, state: object, message: str) -> None:
    path = write(tmp_path / "a.bin", state())  # type: ignore[operator]
    with pytest.raises(CheckpointMismatch, match=message) as error:
        text_of(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("rows", [PIECES - 10, PIECES + 2])
def test_bert_of_another_number_of_words_is_refused(tmp_path: Path, rows: int) -> None:
    state = plain(bert_state()) | {"embeddings.word_embeddings.weight": torch.zeros(rows, 16)}
    with pytest.raises(CheckpointMismatch, match=f"embeddings of {rows} word pieces; must be the 50 of"):
        text_of(write(tmp_path / "a.bin", state))


def test_bert_of_other_words_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", bert_state())
    shutil.copyfile(BUNDLED, tmp_path / "vocab.txt")
    assert text_of(tmp_path)
    (tmp_path / "vocab.txt").write_text(BUNDLED.read_text(encoding="utf-8").replace("\nthe\n", "\nder\n"), "utf-8")
    with pytest.raises(CheckpointMismatch, match=r"vocab\.txt: another vocabulary; must be that of 'bert-base-uncased"):
        text_of(tmp_path)


def test_model_with_a_cut_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"vocabulary 'bert-base-uncased'; the model's is 'vocab\.txt'"):
        text_of(write(tmp_path / "a.bin", bert_state()), replace(SMALL, vocab="vocab.txt"))


@pytest.mark.parametrize("name", ["augreg-large", VISION_URLS["augreg-large"]])
def test_named_tower_comes_from_the_cache(name: str) -> None:
    write(cached_url(VISION_URLS["augreg-large"]), flax_state())
    assert "vision.cls_token" in backbone_state(SMALL, vision=name, text=None, offline=True)


def test_digits_in_the_name_of_a_download_are_checked(tmp_path: Path) -> None:
    wrong = write(cached_url(VISION_URLS["deit-base"]), timm_state())
    digest = hashlib.sha256(wrong.read_bytes()).hexdigest()
    url = f"https://example.org/small-{digest[:8]}.pth"
    shutil.copyfile(wrong, cached_url(url))
    assert "vision.cls_token" in backbone_state(SMALL, vision=url, text=None, offline=True)
    with pytest.raises(
        ChecksumMismatch, match=f"SHA-256 {digest[:12]}…, must begin with b5f2ef4d; the file was deleted"
    ):
        backbone_state(SMALL, vision="deit-base", text=None, offline=True)
    assert not wrong.exists()


def test_bert_comes_from_the_hubs_cache(tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="bert-base-uncased is not cached"):
        text_of(BERT)
    repository = tmp_path / "hub" / "models--bert-base-uncased"
    write(repository / "snapshots" / ("0" * 40) / "model.safetensors", bert_state())
    shutil.copyfile(BUNDLED, repository / "snapshots" / ("0" * 40) / "vocab.txt")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert "encoder.embed.word.weight" in text_of(BERT)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="unknown image tower 'deit-bse'; did you mean 'deit-base'"):
        backbone_state(SMALL, vision="deit-bse", text=None)
    with pytest.raises(CheckpointError, match=r"a\.npz: no such file"):
        vision_of(tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match=r"a\.bin: no such file or folder; 'bert-base-uncased' and hub ids"):
        text_of(tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=r"no weights; needs model\.safetensors, pytorch_model\.bin or"):
        text_of(tmp_path)
    with pytest.raises(OfflineError, match="is not cached and --offline is set"):
        backbone_state(SMALL, vision="deit-base", text=None, offline=True)
