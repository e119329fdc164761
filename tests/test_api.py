"""`blip.load` and the model it returns, as Python users call them."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import blip
import blip_lite
from blip import Caption, ErrorResult, MissingPart, Model, UnknownModel, UnreadableImage
from blip_lite.errors import ConfigError, UsageError


@pytest.fixture(scope="module")
def model() -> Model:
    return blip.load_random("pretrain", seed=0)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    rng = np.random.RandomState(0)
    Image.fromarray(rng.randint(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def images(count: int) -> list[Image.Image]:
    rng = np.random.RandomState(1)
    return [Image.fromarray(rng.randint(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]


def test_importing_does_not_import_torch() -> None:
    code = "import sys, blip; assert 'torch' not in sys.modules; print(sorted(blip.__all__) == blip.__all__)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    for name in blip.__all__:
        assert getattr(blip, name) is not None
    assert blip.Model is blip_lite.Model
    assert blip.__version__
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        blip.lod  # noqa: B018


def test_an_image_returns_a_caption_and_a_sequence_a_list(model: Model, photo: Path) -> None:
    caption = model.caption(photo)
    assert isinstance(caption, Caption) and caption.score <= 0 and len(caption.tokens) == len(caption.logprobs)
    assert model.caption([photo, str(photo)]) == [caption, caption]
    assert list(model.caption_iter(iter([photo]))) == [caption]


def test_every_image_type_has_the_same_caption(model: Model, photo: Path) -> None:
    image = Image.open(photo)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    with open(photo, "rb") as file:
        forms = [str(photo), image, array, tensor, tensor / 255, photo.read_bytes(), io.BytesIO(file.read())]
    assert {model.caption(form).text for form in forms} == {model.caption(photo).text}


def test_a_result_does_not_depend_on_other_inputs(model: Model) -> None:
    photos = images(7)
    for options in ({}, {"beams": 1}, {"beams": 4, "num_captions": 3}, {"sample": True, "temperature": 3.0}):
        alone = [model.caption([image], **options, batch_size=1)[0] for image in photos]
        if options.get("sample"):  # the key, here the index, is part of the seed
            alone = list(model.caption(photos, **options, batch_size=1))
        together = model.caption(photos, **options, batch_size=7)
        assert [c.text for c in together] == [c.text for c in alone]
        assert [c.score for c in together] == pytest.approx([c.score for c in alone], abs=1e-4)


def test_equal_seeds_repeat_and_none_differs(model: Model) -> None:
    image = images(1)[0]
    drawn = [model.caption(image, sample=True, temperature=5.0, seed=seed).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({model.caption(image, sample=True, temperature=5.0, seed=None).text for _ in range(3)}) > 1


def test_the_global_generator_is_not_used(model: Model) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model.caption(images(1)[0], sample=True)
    assert torch.equal(torch.rand(1), expected)


def test_match_and_embed_agree(model: Model) -> None:
    photos, texts = images(2), ["a cat", "two dogs run on grass", "sea"]
    scores = model.match(photos, texts)
    assert scores.itm.shape == scores.itc.shape == (2, 3) and len(scores.best()) == 2
    cosines = model.embed_image(photos).similarity(model.embed_text(texts))
    assert np.allclose(cosines, scores.itc, atol=1e-5)
    pairs = model.match(photos, texts[:2], pairs=True)
    assert np.allclose(pairs.itm, np.diag(scores.itm[:, :2]), atol=1e-5)
    assert model.match(photos, texts, head="itc").itm is None
    assert model.embed_multimodal(photos, texts[:2]).vectors.shape == (2, 32)
    assert model.embed_image(photos, tokens=True).vectors.shape == (2, 5, 32)


def test_unreadable_images_raise_or_are_recorded(model: Model, photo: Path) -> None:
    broken = photo.with_name("broken.jpg")
    broken.write_bytes(b"not an image")
    with pytest.raises(UnreadableImage) as caught:
        model.caption([photo, broken])
    assert caught.value.key == str(broken)
    first, second, third = model.caption([photo, broken, photo], on_error="record")
    assert isinstance(second, ErrorResult) and first == third


def test_unsupported_calls_name_the_families_that_support_them() -> None:
    vqa = blip.load_random("vqa")
    with pytest.raises(MissingPart, match="cannot caption; models of the family caption or pretrain can"):
        vqa.caption(images(1))
    with pytest.raises(UnknownModel, match="did you mean 'caption-base'"):
        blip.load("caption-bas")
    assert "answer" in vqa.capabilities


def test_a_saved_model_loads_unchanged(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "mine")
    again = blip.load(tmp_path / "mine", device="cpu")
    assert again.config == model.config
    image = images(1)[0]
    assert again.caption(image) == model.caption(image)


def test_threads_can_share_a_model(model: Model) -> None:
    photos, texts = images(4), {}

    def work(i: int) -> None:
        texts[i] = model.caption(photos[i]).text

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [texts[i] for i in range(4)] == [c.text for c in model.caption(photos)]


def test_names_are_known_without_loading() -> None:
    assert {"caption-base", "tiny"} <= set(blip.list_models())
    assert blip.info("caption-base").family == "caption"
    assert blip.download("tiny").is_dir()


def test_the_bundled_model_captions_matches_and_embeds() -> None:
    tiny = blip.load()
    photo = Path(__file__).parent.parent / "examples" / "chelsea.png"
    assert "cat" in tiny.caption(photo).text
    assert tiny.match(photo, ["a cat", "a red car on a road"]).best() == [0]
    assert tiny.embed_text("a cat").vectors.shape[1] == tiny.config.proj_width
    assert tiny.backend.dtype == torch.float32


def test_the_order_of_the_two_images_of_a_statement_matters() -> None:
    model = blip.load_random("nlvr")
    red, blue = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    verdict = model.compare(red, blue, "The left image is red.")
    assert verdict.value == (verdict.score > 0.5) and verdict.to_dict()["mode"] == "statement"
    assert verdict.score != model.compare(blue, red, "The left image is red.").score


def test_an_image_column_of_datasets_is_accepted(model: Model, photo: Path) -> None:
    decoded = [Image.open(photo)]  # Image()
    undecoded = [{"bytes": photo.read_bytes(), "path": None}, {"bytes": None, "path": str(photo)}]  # decode=False
    expected = model.caption(photo)
    assert model.caption(decoded) == [expected]
    assert model.caption(undecoded) == [expected, expected]
    assert model.caption(undecoded[0]) == expected
    assert model.embed_image(undecoded).vectors.shape == (2, 16)


def test_unsupported_image_types_are_named(model: Model) -> None:
    with pytest.raises(UnreadableImage, match="unsupported image type NoneType; pass a path"):
        model.caption([None])
    first, second = model.caption([None, {"bytes": None, "path": None}], on_error="record")
    assert first.reason.startswith("unsupported image type NoneType")
    assert second.reason.startswith("a mapping without an image")


def test_wrong_arguments_are_one_line() -> None:
    model = blip.load_random()
    photo = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match="2 images and 1 text; counts must match"):
        model.match([photo, photo], ["a"], pairs=True)
    with pytest.raises(UsageError, match="2 images and 1 text; counts must match"):
        model.embed_multimodal([photo, photo], ["a"])
    with pytest.raises(UsageError, match="head 'both heads'; must be itm, itc or both"):
        model.match(photo, "a", head="both heads")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no texts given; at least one is needed"):
        model.match(photo, [])
    with pytest.raises(UsageError, match="no images given; at least one is needed"):
        model.embed_image([])
    with pytest.raises(ConfigError, match="beams 0: must be an integer from 1 to 1000"):
        model.caption(photo, beams=0)
