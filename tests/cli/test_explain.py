"""`blip explain` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Blip

RANDOM = ("-m", "random-tiny")


def test_one_image_goes_into_the_folder_itself(blip: Blip, photos: Path, tmp_path: Path) -> None:
    result = blip("explain", photos / "a.png", "-t", "a cat", "-o", tmp_path / "out", *RANDOM)
    assert result.code == 0
    key, text, score, folder = result.out.strip().split("\t")
    assert (key, text, folder) == (f"{photos}/a.png", "a cat", str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert record["subject"] == "match" and record["tokens"] == ["a", "cat"] and 0 <= float(score) <= 1
    assert all((tmp_path / "out" / name).exists() for name in record["files"])


def test_an_unreadable_image_does_not_affect_the_others(blip: Blip, photos: Path, tmp_path: Path) -> None:
    result = blip("explain", photos, "-t", "a cat", "-o", tmp_path / "out", "--tokens", "mean", *RANDOM)
    assert result.code == 1 and len(result.out.splitlines()) == 4
    assert "c.jpg: truncated" in result.err
    folders = sorted(p.parent.name for p in (tmp_path / "out").rglob("explain.json"))
    assert folders == ["a", "b", "d", "e ü"]
    assert not list((tmp_path / "out").rglob("*/c*"))


def test_images_of_the_same_name_get_different_folders(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (photos / "a.jpg").write_bytes((photos / "b.jpg").read_bytes())
    blip("explain", photos / "a.png", photos / "a.jpg", "-t", "x", "-o", tmp_path / "out", *RANDOM)
    assert sorted(p.parent.name for p in (tmp_path / "out").rglob("mean.png")) == ["a.jpg", "a.png"]


def test_texts_and_questions_come_from_a_table(blip: Blip, photos: Path, tmp_path: Path) -> None:
    rows = tmp_path / "m.jsonl"
    rows.write_text('{"image": "photos/a.png", "text": "a dog", "question": "what is it"}\n')
    blip("explain", rows, "-o", tmp_path / "match", *RANDOM)
    assert json.loads((tmp_path / "match" / "explain.json").read_text())["text"] == "a dog"
    blip("explain", rows, "-o", tmp_path / "answer", "-m", "random-tiny-vqa")
    record = json.loads((tmp_path / "answer" / "explain.json").read_text())
    assert (record["subject"], record["question"]) == ("answer", "what is it")


def test_existing_heatmaps_are_an_error_skipped_or_replaced(blip: Blip, photos: Path, tmp_path: Path) -> None:
    args = ("explain", photos / "a.png", "-o", tmp_path / "out", *RANDOM)
    blip(*args, "-t", "a cat")
    result = blip(*args, "-t", "dogs")
    assert result.code == 2 and "explain.json exists; use --skip-existing or --overwrite" in result.err
    result = blip(*args, "-t", "dogs", "--skip-existing")
    assert result.code == 0 and "all have their heat-maps" in result.err and (tmp_path / "out" / "01_cat.png").exists()
    assert blip(*args, "-t", "dogs", "--overwrite").code == 0
    assert not (tmp_path / "out" / "01_cat.png").exists() and (tmp_path / "out" / "00_dogs.png").exists()


def test_errors_are_one_line(blip: Blip, photos: Path, tmp_path: Path) -> None:
    photo, out = photos / "a.png", ("-o", tmp_path / "out")
    for args, code, message in (
        ((photo,), 2, "no folder to write to; give -o DIR"),
        ((photo, *out, "--method", "lime"), 2, "--method lime; must be gradcam, attention or rollout"),
        ((photo, *out, "--tokens", "some"), 2, "--tokens some; must be all, words or mean"),
        ((photo, *out, "--image-format", "gif"), 2, "--image-format gif; must be png, jpg or webp"),
        ((photo, *out, "-t", "x", "--layer", "7"), 2, "layer 7: must be from 0 to 1"),
        ((photo, *out, "-t", " "), 2, "empty text for"),
        ((photo, *out, "-m", "random-tiny-vqa"), 2, "needs a question: give -t TEXT"),
        ((photo, *out, "-m", "random-tiny-nlvr", "-t", "x"), 3, "has no heat-maps"),
    ):
        result = blip("explain", *args, *(() if "-m" in args else RANDOM))
        assert (result.code, result.out) == (code, "") and message in result.err
        assert len(result.err.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_empty_heatmaps_are_noted(blip: Blip, photos: Path, tmp_path: Path) -> None:
    result = blip("explain", photos / "a.png", "-t", "a cat", "-o", tmp_path / "o", "--layer", "1", *RANDOM)
    assert result.code == 0 and "empty heat-maps: attention in layer 1 does not change the match" in result.err


def test_methods_have_different_heatmaps(blip: Blip, photos: Path, tmp_path: Path) -> None:
    seen = set()
    for method in ("gradcam", "attention", "rollout"):
        blip("explain", photos / "a.png", "-t", "a cat", "-o", tmp_path / method, "--method", method, *RANDOM)
        seen.add((tmp_path / method / "mean.png").read_bytes())
    assert len(seen) == 3


def test_help_needs_no_torch() -> None:
    code = "import sys; from blip.cli import main; main(['explain', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
