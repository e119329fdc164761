"""The image tower against the original's numbers."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from blip.model.stem import ConvStem
from blip.model.vision import VisionTransformer, resize_pos_embed
from blip_lite.config import VisionConfig
from tests.oracle_files import oracle_model, tensors

HIDDEN = {"atol": 2e-5, "rtol": 1e-5}


def test_states_equal_the_original() -> None:
    core, model = tensors("core"), oracle_model("retrieval")
    out = model.encode_image(tensors("inputs")["images"][:3])
    assert_close(out, core["vision.out"], **HIDDEN)


def test_every_block_equals_the_original() -> None:
    core, vision = tensors("core"), oracle_model("retrieval").vision
    seen: list[torch.Tensor] = []
    for block in vision.blocks:
        block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    images = tensors("inputs")["images"]
    vision(images[:2])
    for i, states in enumerate(seen):
        assert_close(states, core[f"vision.block{i}"], **HIDDEN)
    patches = vision.patch_embed(images[:1]).flatten(2).transpose(1, 2)
    assert_close(patches, core["vision.patch_embed"], **HIDDEN)


@pytest.mark.parametrize(("source", "target"), [(14, 24), (24, 14), (14, 30), (24, 30)])
def test_position_embeddings_resize_as_the_original(source: int, target: int) -> None:
    core = tensors("core")
    resized = resize_pos_embed(core[f"interp.src_{source}"], target**2 + 1)
    assert_close(resized, core[f"interp.{source}_to_{target}"], **HIDDEN)


def test_another_image_size_equals_the_original() -> None:
    core, small = tensors("core"), oracle_model("retrieval").vision
    config = VisionConfig(image_size=96, width=48, num_layers=3, num_heads=3, mlp_width=192)
    state = small.state_dict()
    state["pos_embed"] = resize_pos_embed(state["pos_embed"], config.num_tokens)
    assert_close(state["pos_embed"], core["vision.pos_embed_96"], **HIDDEN)
    vision = VisionTransformer(config).eval()
    vision.load_state_dict(state)
    assert_close(vision(tensors("inputs")["images96"][:2]), core["vision.out_96"], **HIDDEN)


def test_wrong_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\).*64, 64"):
        oracle_model("retrieval").encode_image(torch.zeros(1, 3, 32, 32))


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    vision = oracle_model("retrieval").vision.train()
    images = tensors("inputs")["images"][:2]
    gradients = []
    for layers in (0, 2):
        vision.zero_grad()
        vision.checkpoint_layers = layers
        vision(images).square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in vision.named_parameters() if p.grad is not None})
    assert_close(gradients[0], gradients[1])


def test_drop_path_is_off_in_eval_and_keeps_the_mean_in_training() -> None:
    from blip.model.layers import DropPath

    torch.manual_seed(0)
    x = torch.ones(4000, 1, 1)
    assert torch.equal(DropPath(0.25).eval()(x), x)
    dropped = DropPath(0.25).train()(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("checkpointed", [0, 2])
def test_the_class_token_alone_is_the_same_token(checkpointed: int) -> None:
    vision, images = oracle_model("retrieval").vision, tensors("inputs")["images"][:2]
    vision.checkpoint_layers = checkpointed
    for module in (vision.eval(), vision.train()):
        first = module(images, first_only=True)
        assert first.shape == (2, 1, 48)
        assert_close(first, module(images)[:, :1], **HIDDEN)


def test_the_stem_computes_channels_last() -> None:
    stem = ConvStem(width=32, class_tokens=2)
    layouts: list[bool] = []
    for module in stem.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda _m, x, y: layouts.extend(t.is_contiguous(memory_format=torch.channels_last) for t in (*x, y))
            )
    stem(torch.zeros(2, 3, 224, 224))
    assert len(layouts) > 100 and all(layouts)


def test_the_stem_reads_a_batch_a_few_photos_at_a_time() -> None:
    torch.manual_seed(0)
    stem, pixels = ConvStem(width=32, class_tokens=2).eval(), torch.randn(5, 3, 64, 64)
    sizes: list[int] = []
    stem.head.register_forward_hook(lambda _m, _x, y: sizes.append(len(y)))
    with torch.no_grad():
        grid, classes = stem(pixels)
        each = [stem(pixels[i : i + 1]) for i in range(5)]
    assert sizes[:2] == [4, 1]
    assert_close(grid, torch.cat([of_one for of_one, _ in each]), **HIDDEN)
    assert_close(classes, torch.cat([of_one for _, of_one in each]), **HIDDEN)
    sizes.clear()
    stem(pixels)  # with gradients
    assert sizes == [5]


def test_an_exported_stem_takes_any_number_of_photos() -> None:
    stem, pixels = ConvStem(width=32, class_tokens=2).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        program = torch.export.export(stem, (pixels,), dynamic_shapes=({0: torch.export.Dim("photos")},))
        grid, _ = program.module()(torch.randn(7, 3, 64, 64))
    assert grid.shape == (7, 1280, 2, 2)
