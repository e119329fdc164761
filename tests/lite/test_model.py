"""Exported models compute what torch computes; the bundled model needs no other package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import blip
import blip_lite
from blip_lite.backend import cpu_batch_size
from blip_lite.cli import main
from blip_lite.config import VisionConfig
from blip_lite.decoding import DecodingOptions, make_decoding
from blip_lite.errors import CheckpointError, MissingPart, UnreadableImage, UsageError
from blip_lite.model import Model
from blip_lite.onnx_backend import is_exported
from blip_lite.results import Caption, ErrorResult
from tests.expected import caption_of

PHOTOS = sorted((Path(__file__).parents[2] / "examples").glob("*.[jp]*g"))
TEXTS = ["a cat", "a cup of coffee on a table", "a man with a camera on a lawn in a park", "rocket"]
CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def ours() -> Model:
    return blip_lite.load(threads=1)


@pytest.fixture(scope="module")
def theirs() -> Model:
    return blip.load("tiny")


@pytest.mark.parametrize(
    "options", [{}, {"beams": 1}, {"num_captions": 3, "repetition_penalty": 1.3}, {"prompt": "a dog"}]
)
def test_captions_equal_those_of_torch(ours: Model, theirs: Model, options: dict[str, Any]) -> None:
    assert len(PHOTOS) == 5
    for caption, expected in zip(ours.caption(PHOTOS, **options), theirs.caption(PHOTOS, **options), strict=True):
        assert (caption.text, caption.tokens) == (expected.text, expected.tokens)
        assert [other.text for other in caption.alternatives] == [other.text for other in expected.alternatives]
        np.testing.assert_allclose(caption.logprobs, expected.logprobs, **CLOSE)


def test_batches_do_not_change_captions(ours: Model) -> None:
    together, alone = ours.caption(PHOTOS, batch_size=5), ours.caption(PHOTOS, batch_size=1)
    assert [caption.text for caption in together] == [caption.text for caption in alone]
    np.testing.assert_allclose([c.score for c in together], [c.score for c in alone], **CLOSE)


def test_images_wait_for_their_batch_at_the_size_of_the_model(ours: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, caption_batch = [], ours.caption_batch
    expected = caption_batch([Image.open(path).convert("RGB") for path in PHOTOS])

    def recorded(images: list[Image.Image], *args: Any, **kwargs: Any) -> list[Caption]:
        sizes.extend(image.size for image in images)
        return caption_batch(images, *args, **kwargs)

    monkeypatch.setattr(ours, "caption_batch", recorded)
    assert [caption.text for caption in ours.caption(PHOTOS)] == [caption.text for caption in expected]
    assert sizes == [(224, 224)] * 5


@pytest.mark.parametrize(("size", "patch", "expected"), [(224, 32, 32), (224, 16, 8), (384, 16, 8), (112, 16, 32)])
def test_models_with_few_image_tokens_have_large_batches(size: int, patch: int, expected: int) -> None:
    assert cpu_batch_size(VisionConfig(image_size=size, patch_size=patch)) == expected


def test_matches_equal_those_of_torch(ours: Model, theirs: Model) -> None:
    scores, expected = ours.match(PHOTOS, TEXTS), theirs.match(PHOTOS, TEXTS)
    np.testing.assert_allclose(scores.itm, expected.itm, **CLOSE)
    np.testing.assert_allclose(scores.itc, expected.itc, **CLOSE)
    paired = ours.match(PHOTOS[:4], TEXTS, pairs=True)
    np.testing.assert_allclose(paired.itm, np.diag(scores.itm[:4]), **CLOSE)
    np.testing.assert_allclose(paired.itc, np.diag(scores.itc[:4]), **CLOSE)
    assert ours.match(PHOTOS[0], TEXTS, head="itc").itm is None
    assert ours.match(PHOTOS[0], "a cat", head="itm").itc is None


@pytest.mark.parametrize("options", [{}, {"projected": False}, {"tokens": True}])
def test_vectors_equal_those_of_torch(ours: Model, theirs: Model, options: dict[str, Any]) -> None:
    for result, expected in (
        (ours.embed_image(PHOTOS, **options), theirs.embed_image(PHOTOS, **options)),
        (ours.embed_text(TEXTS, **options), theirs.embed_text(TEXTS, **options)),
    ):
        np.testing.assert_allclose(result.vectors, expected.vectors, **CLOSE)


@pytest.mark.parametrize("tokens", [False, True])
def test_fused_vectors_equal_those_of_torch(ours: Model, theirs: Model, tokens: bool) -> None:
    vectors, expected = (m.embed_multimodal(PHOTOS[:4], TEXTS, tokens=tokens).vectors for m in (ours, theirs))
    np.testing.assert_allclose(vectors, expected, **CLOSE)


def test_the_order_of_photos_equals_that_of_torch(ours: Model, theirs: Model) -> None:
    for query in ("a cup of coffee", PHOTOS[2]):
        hits, expected = (model.rank(query, PHOTOS, rerank=2) for model in (ours, theirs))
        assert [hit.path for hit in hits] == [hit.path for hit in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected], **CLOSE)


def test_batch_methods_take_opened_images(ours: Model) -> None:
    images = [Image.open(photo).convert("RGB") for photo in PHOTOS[:2]]
    decoding = make_decoding(beams=1)
    assert ours.caption_batch(images, decoding) == ours.caption(PHOTOS[:2], beams=1)
    assert np.array_equal(ours.embed_image_batch(images).vectors, ours.embed_image(PHOTOS[:2]).vectors)
    assert np.array_equal(ours.match_batch(images, TEXTS).itm, ours.match(PHOTOS[:2], TEXTS).itm)


def test_images_of_any_type(ours: Model) -> None:
    image = Image.open(PHOTOS[0]).convert("RGB")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    images = [PHOTOS[0], str(PHOTOS[0]), PHOTOS[0].read_bytes(), image, array, tensor, tensor.float() / 255]
    images += [{"bytes": PHOTOS[0].read_bytes(), "path": None}, {"bytes": None, "path": str(PHOTOS[0])}]
    assert len({caption.text for caption in ours.caption(images, beams=1)}) == 1
    assert all(isinstance(ours.caption(image, beams=1), Caption) for image in images)


def test_an_unreadable_image_does_not_affect_the_others(ours: Model) -> None:
    first, second, third = ours.caption([PHOTOS[0], "missing.jpg", PHOTOS[1]], on_error="record")
    assert isinstance(second, ErrorResult) and second.reason == "no such file"
    assert isinstance(first, Caption) and isinstance(third, Caption)
    with pytest.raises(UnreadableImage, match=r"missing\.jpg: no such file"):
        ours.caption(["missing.jpg"])


def test_unsupported_calls_and_wrong_arguments_are_one_line(ours: Model) -> None:
    with pytest.raises(MissingPart, match="model 'tiny' cannot answer; models of the family vqa can"):
        ours.answer(PHOTOS[0], "what is it?")
    with pytest.raises(MissingPart, match="cannot compare; models of the family nlvr can"):
        ours.compare(PHOTOS[0], PHOTOS[1], "both show a cat")
    for call in (lambda: ours.caption(PHOTOS[0], sample=True), lambda: ours.explain(PHOTOS[0])):
        with pytest.raises(MissingPart, match=r"cannot (sample|explain): not supported with onnxruntime"):
            call()
    with pytest.raises(MissingPart, match="model 'tiny' cannot be saved: it is an exported folder; copy"):
        ours.save("folder")
    for call in (lambda: ours.match(PHOTOS, TEXTS, pairs=True), lambda: ours.embed_multimodal(PHOTOS, TEXTS)):
        with pytest.raises(UsageError, match="5 images and 4 texts; counts must match"):
            call()
    with pytest.raises(UsageError, match="head 'itx'; must be itm, itc or both"):
        ours.match(PHOTOS[0], TEXTS, head="itx")  # type: ignore[arg-type]


def test_options_of_caption_are_those_of_make_decoding() -> None:
    assert set(DecodingOptions.__annotations__) == set(make_decoding.__kwdefaults__ or ())


def test_no_images_or_no_texts(ours: Model) -> None:
    assert (
        list(ours.caption_iter([])) == []
        and ours.match_logits([], TEXTS).shape == (0, 4, 2)
        and ours.rank("a cat", []) == []
    )
    for call in (ours.caption, ours.embed_image, lambda images: ours.match(images, TEXTS)):
        with pytest.raises(UsageError, match="no images given; at least one is needed"):
            call([])
    for call in (ours.embed_text, lambda texts: ours.match(PHOTOS, texts)):
        with pytest.raises(UsageError, match="no texts given; at least one is needed"):
            call([])


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}: not an exported model; it needs config"):
        blip_lite.load(tmp_path)
    (tmp_path / "config.json").write_text('{"family": "captions"}')
    shutil.copy(blip_lite.ASSETS / "tiny/cross.onnx", tmp_path)
    assert is_exported(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json: family 'captions': must be one of"):
        blip_lite.load(tmp_path)


def test_no_torch_is_needed() -> None:
    """Packages that only `blip` needs cannot be imported here."""
    code = (
        "import sys\nfor name in ('torch', 'blip', 'onnx', 'safetensors', 'click', 'scipy'): sys.modules[name] = None\n"
        "from blip_lite.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    for verb in (["caption"], ["match", "-t", "a cup of coffee"]):
        done = subprocess.run([sys.executable, "-c", code, *verb, PHOTOS[3]], capture_output=True, text=True)
        assert done.returncode == 0 and "coffee" in done.stdout, done.stderr


def test_an_unreadable_file_is_reported_and_the_others_are_captioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PHOTOS[3], tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(b"GIF")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    assert main(["caption", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert output.out == f"{tmp_path}/b.png\t{caption_of(PHOTOS[3].name)}\n"
    assert output.err.count("\n") == 1 and output.err.startswith(f"{tmp_path}/a.jpg: not an image")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["caption", "nothing/", "-m", "missing"], 3, "missing: not an exported model"),
        (["ask", str(PHOTOS[0]), "-q", "what?"], 3, "model 'tiny' cannot answer"),
        (["caption", str(PHOTOS[0]), "--beams", "0"], 2, "--beams: 0; must be an integer from 1 to 32"),
        (["match", str(PHOTOS[0])], 2, "required: -t/--text; 'blip-lite match -h' lists all flags"),
        (["caption", str(PHOTOS[0]), "--threads", "-2"], 2, "--threads: -2; must be an integer of at least 1"),
        (
            ["ask", str(PHOTOS[0]), "-q", "what?", "--answers", ","],
            2,
            "',' contains no answer; must be a,b,c",
        ),
        ([], 2, "VERB; 'blip-lite -h' lists all flags"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith("blip-lite: error: ") and message in output.err
