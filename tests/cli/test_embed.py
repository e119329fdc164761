"""`blip embed` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file

from tests.cli.conftest import Blip

RANDOM = ("-m", "random-tiny")


def test_vectors_of_a_folder_in_every_format(blip: Blip, photos: Path, tmp_path: Path) -> None:
    for suffix in (".jsonl", ".npz", ".safetensors", ".parquet"):
        result = blip("embed", photos, *RANDOM, "-o", tmp_path / f"v{suffix}")
        assert result.code == 1 and "c.jpg: truncated" in result.err and "4 done, 1 failed" in result.err
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    good = [row for row in rows if "error" not in row]
    assert len(rows) == 5 and len(good) == 4
    expected = np.array([row["vector"] for row in good], np.float32)
    assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-4)
    file = np.load(tmp_path / "v.npz")
    assert [Path(key).name for key in file["keys"]] == ["a.png", "b.jpg", "d.png", "e ü.png"]
    assert np.allclose(file["vectors"], expected, atol=1e-5)
    assert json.loads(str(file["meta"]))["kind"] == "image"
    assert np.allclose(load_file(tmp_path / "v.safetensors")["vectors"], expected, atol=1e-5)
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pylist()
    assert np.allclose([row["vector"] for row in table if row["error"] is None], expected, atol=1e-5)


def test_texts_pairs_states_and_half_precision(blip: Blip, photos: Path, tmp_path: Path) -> None:
    rows = [json.loads(x) for x in blip("embed", "--kind", "text", "-t", "a cat", *RANDOM, "--json").out.splitlines()]
    assert rows[0]["key"] == "a cat" and rows[0]["dim"] == 16
    args = (photos / "a.png", photos / "b.jpg", *RANDOM)
    result = blip("embed", *args, "--kind", "multimodal", "-t", "a cat", "--json")
    assert [json.loads(x)["dim"] for x in result.out.splitlines()] == [32, 32]
    assert "not comparable" in result.err
    blip("embed", *args, "--tokens", "--vector-dtype", "fp16", "-o", tmp_path / "t.npz")
    vectors = np.load(tmp_path / "t.npz")["vectors"]
    assert vectors.shape == (2, 5, 32) and vectors.dtype == np.float16


def test_text_states_do_not_depend_on_the_batch(blip: Blip, photos: Path, tmp_path: Path) -> None:
    texts = ("-t", "a cat", "-t", "two dogs run on a wide beach")
    (tmp_path / "short.txt").write_text("a cat\n" * 256 + "two dogs run on a wide beach\n")
    args = ("embed", "--kind", "text", "--tokens", *RANDOM)
    alone, with_longer = (json.loads(blip(*args, *t, "--json").out.splitlines()[0]) for t in (texts[:2], texts))
    assert np.allclose(alone["vector"], with_longer["vector"], atol=1e-4) and len(alone["vector"]) == 4
    assert blip(*args, "--texts", tmp_path / "short.txt", "-o", tmp_path / "t.safetensors").code == 0
    vectors = load_file(tmp_path / "t.safetensors")["vectors"]
    assert vectors.shape[0] == 257 and vectors[0, 4:].any() == np.False_ and vectors[-1, 4:].any()
    result = blip(
        "embed", photos / "a.png", photos / "b.jpg", "--kind", "multimodal", *texts, "--tokens", *RANDOM, "--json"
    )
    lengths = [len(json.loads(line)["vector"]) for line in result.out.splitlines()]
    assert lengths[0] == 4 < lengths[1]


def test_a_dry_run_lists_and_embeds_nothing(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.api.load", None)
    assert blip("embed", "--kind", "text", "-t", "a cat", "--dry-run").out == "a cat\n"
    assert len(blip("embed", photos, "--dry-run").out.splitlines()) == 5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--kind", "smell"), "--kind smell; must be image, text or multimodal"),
        (("--kind", "text"), "--kind text needs texts"),
        (("--kind", "text", "-t", "x"), "--kind text with images or --resume; must be texts alone"),
        (("-t", "x"), "--kind image takes no texts"),
        (("--vector-dtype", "fp8"), "--vector-dtype fp8; must be fp32 or fp16"),
    ],
)
def test_usage_errors_are_one_line(blip: Blip, photos: Path, args: tuple[str, ...], message: str) -> None:
    result = blip("embed", photos / "a.png", *RANDOM, *args)
    assert result.code == 2 and result.out == "" and message in result.err and len(result.err.splitlines()) == 1


def test_a_failed_run_leaves_no_file(blip: Blip, photos: Path, tmp_path: Path) -> None:
    result = blip("embed", photos / "a.png", "-m", "no-such-model", "-o", tmp_path / "v.npz")
    assert result.code == 3 and list(tmp_path.glob("v*")) == []


def test_one_image_goes_with_every_text(blip: Blip, photos: Path, tmp_path: Path) -> None:
    flags = (*RANDOM, "--kind", "multimodal", "-t", "a cat", "-t", "a dog", "--json")
    rows = [json.loads(line) for line in blip("embed", photos / "a.png", *flags).out.splitlines()]
    assert [row["key"] for row in rows] == [f"{photos / 'a.png'}#0", f"{photos / 'a.png'}#1"]
    alone = blip("embed", photos / "a.png", *RANDOM, "--kind", "multimodal", "-t", "a dog", "--json").out
    assert rows[1]["vector"] == pytest.approx(json.loads(alone)["vector"], abs=1e-4)
    assert "must be one text, one image, or one text per image" in blip("embed", photos, *flags).err
