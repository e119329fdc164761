"""Exported models answer as torch does; the bundled one is always at hand."""

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
from blip_lite.cli import main
from blip_lite.errors import CheckpointError, MissingPart, UnreadableImage, UsageError
from blip_lite.model import Model
from blip_lite.onnx_backend import is_exported
from blip_lite.results import Caption, ErrorResult

PHOTOS = sorted((Path(__file__).parents[2] / "examples").glob("*.[jp]*g"))
TEXTS = ["a cat", "a cup of coffee on a table", "a man with a camera on a lawn in a park", "rocket"]
CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def ours() -> Model:
    return blip_lite.load(threads=1)


@pytest.fixture(scope="module")
def theirs() -> blip.Model:
    return blip.load("tiny")


@pytest.mark.parametrize("how", [{}, {"beams": 1}, {"num_captions": 3, "repetition_penalty": 1.3}, {"prompt": "a dog"}])
def test_captions_equal_those_of_torch(ours: Model, theirs: blip.Model, how: dict[str, Any]) -> None:
    assert len(PHOTOS) == 5
    for found, wanted in zip(ours.caption(PHOTOS, **how), theirs.caption(PHOTOS, **how), strict=True):
        assert (found.text, found.tokens) == (wanted.text, wanted.tokens)
        assert [one.text for one in found.alternatives] == [one.text for one in wanted.alternatives]
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, **CLOSE)


def test_batches_do_not_change_captions(ours: Model) -> None:
    together, alone = ours.caption(PHOTOS, batch_size=5), ours.caption(PHOTOS, batch_size=1)
    assert [one.text for one in together] == [one.text for one in alone]
    np.testing.assert_allclose([one.score for one in together], [one.score for one in alone], **CLOSE)


def test_matches_equal_those_of_torch(ours: Model, theirs: blip.Model) -> None:
    found, wanted = ours.match(PHOTOS, TEXTS), theirs.match(PHOTOS, TEXTS)
    np.testing.assert_allclose(found.itm, wanted.itm, **CLOSE)
    np.testing.assert_allclose(found.itc, wanted.itc, **CLOSE)
    paired = ours.match(PHOTOS[:4], TEXTS, pairs=True)
    np.testing.assert_allclose(paired.itm, np.diag(found.itm[:4]), **CLOSE)
    np.testing.assert_allclose(paired.itc, np.diag(found.itc[:4]), **CLOSE)
    assert (
        ours.match(PHOTOS[0], TEXTS, head="itc").itm is None and ours.match(PHOTOS[0], "a cat", head="itm").itc is None
    )


@pytest.mark.parametrize("how", [{}, {"projected": False}, {"tokens": True}])
def test_vectors_equal_those_of_torch(ours: Model, theirs: blip.Model, how: dict[str, Any]) -> None:
    np.testing.assert_allclose(
        ours.embed_image(PHOTOS, **how).vectors, theirs.embed_image(PHOTOS, **how).vectors, **CLOSE
    )
    np.testing.assert_allclose(ours.embed_text(TEXTS, **how).vectors, theirs.embed_text(TEXTS, **how).vectors, **CLOSE)


@pytest.mark.parametrize("tokens", [False, True])
def test_fused_vectors_equal_those_of_torch(ours: Model, theirs: blip.Model, tokens: bool) -> None:
    found, wanted = (model.embed_multimodal(PHOTOS[:4], TEXTS, tokens=tokens).vectors for model in (ours, theirs))
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_order_of_photos_equals_that_of_torch(ours: Model, theirs: blip.Model) -> None:
    for query in ("a cup of coffee", PHOTOS[2]):
        found, wanted = (model.rank(query, PHOTOS, rerank=2) for model in (ours, theirs))
        assert [hit.path for hit in found] == [hit.path for hit in wanted]
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in wanted], **CLOSE)


def test_images_of_any_kind(ours: Model) -> None:
    picture = Image.open(PHOTOS[0]).convert("RGB")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [PHOTOS[0], str(PHOTOS[0]), PHOTOS[0].read_bytes(), picture, array, tensor, tensor.float() / 255]
    kinds += [{"bytes": PHOTOS[0].read_bytes(), "path": None}, {"bytes": None, "path": str(PHOTOS[0])}]
    assert len({one.text for one in ours.caption(kinds, beams=1)}) == 1
    assert all(isinstance(ours.caption(kind, beams=1), Caption) for kind in kinds)
    with pytest.raises(UnreadableImage, match="float64"):
        ours.caption(np.zeros((4, 4, 3)))


def test_bad_image_never_loses_the_others(ours: Model) -> None:
    found = ours.caption([PHOTOS[0], "missing.jpg", PHOTOS[1]], on_error="record")
    assert isinstance(found[1], ErrorResult) and found[1].reason == "no such file"
    assert isinstance(found[0], Caption) and isinstance(found[2], Caption)
    with pytest.raises(UnreadableImage, match=r"missing\.jpg: no such file"):
        ours.caption(["missing.jpg"])


def test_what_cannot_be_done_is_one_line(ours: Model) -> None:
    with pytest.raises(MissingPart, match="model 'tiny' cannot answer; models of the family vqa can"):
        ours.answer(PHOTOS[0], "what is it?")
    with pytest.raises(MissingPart, match="cannot compare; models of the family nlvr can"):
        ours.compare(PHOTOS[0], PHOTOS[1], "both show a cat")
    with pytest.raises(MissingPart, match="cannot sample: not supported with onnxruntime"):
        ours.caption(PHOTOS[0], sample=True)
    for call in (lambda: ours.match(PHOTOS, TEXTS, pairs=True), lambda: ours.embed_multimodal(PHOTOS, TEXTS)):
        with pytest.raises(UsageError, match="5 images and 4 texts; counts must match"):
            call()
    with pytest.raises(UsageError, match="head 'itx'; must be itm, itc or both"):
        ours.match(PHOTOS[0], TEXTS, head="itx")  # type: ignore[arg-type]


def test_nothing_to_do(ours: Model) -> None:
    assert ours.caption([]) == [] and ours.match_logits([], TEXTS).shape == (0, 4, 2) and ours.rank("a cat", []) == []
    for call in (ours.embed_image, lambda images: ours.match(images, TEXTS)):
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
    """Packages that only `blip` has are made impossible to import."""
    code = (
        "import sys\nfor name in ('torch', 'blip', 'onnx', 'safetensors', 'typer', 'scipy'): sys.modules[name] = None\n"
        "from blip_lite.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    for verb in (["caption"], ["match", "-t", "a cup of coffee"]):
        done = subprocess.run([sys.executable, "-c", code, *verb, PHOTOS[3]], capture_output=True, text=True)
        assert done.returncode == 0 and "coffee" in done.stdout, done.stderr


def test_a_bad_file_is_a_line_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(PHOTOS[3], tmp_path / "b.png")
    (tmp_path / "a.jpg").write_bytes(b"GIF")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    assert main(["caption", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/b.png\ta woman holding a cup with a cup of coffee\n"
    assert said.err.count("\n") == 1 and said.err.startswith(f"{tmp_path}/a.jpg: not an image")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["caption", "nothing/", "-m", "missing"], 3, "missing: not an exported model"),
        (["ask", str(PHOTOS[0]), "-q", "what?"], 3, "model 'tiny' cannot answer"),
        (["caption", str(PHOTOS[0]), "--beams", "0"], 2, "--beams: 0; must be an integer from 1 to 32"),
        (["match", str(PHOTOS[0])], 2, "required: -t/--text; 'blip-lite match -h' lists all flags"),
        (["caption", str(PHOTOS[0]), "--threads", "-2"], 2, "--threads: -2; must be an integer of at least 1"),
        (["ask", str(PHOTOS[0]), "-q", "what?", "--answers", ","], 2, "--answers: ',' holds no answer; must be a,b,c"),
        ([], 2, "VERB; 'blip-lite -h' lists all flags"),
    ],
)
def test_exit_codes(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("blip-lite: error: ") and message in said.err
