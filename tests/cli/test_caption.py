"""`blip caption` from the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip.io.lock import exclusive
from tests.cli.conftest import Blip
from tests.io.test_video import damage, write_clip
from tests.record_schemas import problem
from tests.waiting import HANG_SECONDS, wait_until

RANDOM = ("-m", "random-tiny")


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_image_prints_the_caption_alone(blip: Blip, photos: Path) -> None:
    result = blip("caption", photos / "a.png", *RANDOM)
    assert result.code == 0 and len(result.out.splitlines()) == 1 and "\t" not in result.out
    assert result.err.startswith("1 input, 1 done, 0 failed, ")


def test_an_unreadable_image_does_not_affect_the_others(blip: Blip, photos: Path) -> None:
    result = blip("caption", photos, *RANDOM)
    assert result.code == 1
    assert [line.split("\t")[0] for line in result.out.splitlines()] == [
        f"{photos}/{name}" for name in ("a.png", "b.jpg", "sub/d.png", "sub/e ü.png")
    ]
    assert f"{photos}/c.jpg: truncated image" in result.err
    assert "5 inputs, 4 done, 1 failed" in result.err


def test_records_are_in_order_and_valid_with_the_error_in_its_place(blip: Blip, photos: Path) -> None:
    result = blip("caption", photos, *RANDOM, "--json", "-n", "2", "--max-length", "8")
    rows = records(result.out)
    assert [Path(row["key"]).name for row in rows] == ["a.png", "b.jpg", "c.jpg", "d.png", "e ü.png"]
    assert rows[2]["error"]["type"] == "UnreadableImage"
    assert [problem(row) for row in rows] == [None] * 5
    for row in rows[:2]:
        assert list(row)[:4] == ["schema", "key", "text", "score"]
        assert len(row["alternatives"]) == 1 and row["width"] == 40 and row["height"] == 48


def test_captions_do_not_depend_on_batch_size_or_workers(blip: Blip, photos: Path) -> None:
    outputs = {
        blip("caption", photos, *RANDOM, "--json", "--batch-size", str(size), "--workers", str(workers)).out
        for size, workers in ((1, 1), (3, 2), (8, 4))
    }
    assert len(outputs) == 1


def test_sampling_depends_only_on_seed_and_key(blip: Blip, photos: Path) -> None:
    def sampled(*args: str | Path) -> str:
        return blip("caption", *args, *RANDOM, "--sample", "--temperature", "9", "--json").out

    assert sampled(photos / "b.jpg") in sampled(photos)
    assert sampled(photos / "b.jpg", "--seed", "1") != sampled(photos / "b.jpg")


def test_sidecars_twice_the_second_time_without_a_model(
    blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "c.jpg").unlink()
    result = blip("caption", photos, *RANDOM, "--sidecar", ".txt", "--skip-existing", "--prefix", "photo: ")
    assert result.code == 0 and result.out == ""
    assert (photos / "sub" / "d.txt").read_text().startswith("photo: ")
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    monkeypatch.setattr("blip.api.load", None)
    result = blip("caption", photos, *RANDOM, "--sidecar", ".txt", "--skip-existing")
    assert result.code == 0 and "all have their texts" in result.err
    assert before == {path: path.stat().st_mtime_ns for path in photos.rglob("*")}


def test_sidecar_folders_mirror_the_tree(blip: Blip, photos: Path, tmp_path: Path) -> None:
    blip("caption", photos, *RANDOM, "--sidecar-dir", tmp_path / "texts", "--xmp")
    assert [p.name for p in sorted((tmp_path / "texts").rglob("*.xmp"))] == ["a.xmp", "b.xmp", "d.xmp", "e ü.xmp"]


def test_an_output_file_is_not_overwritten_by_default(blip: Blip, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert blip("caption", photos / "a.png", *RANDOM, "-o", out).code == 0
    written = out.read_text()
    assert written.splitlines()[0].startswith("schema,key,text,score")
    result = blip("caption", photos / "a.png", *RANDOM, "-o", out)
    assert result.code == 2 and "exists; use --overwrite" in result.err
    assert blip("caption", photos / "a.png", *RANDOM, "-o", out, "--skip-existing").code == 0
    assert out.read_text() == written


def test_the_prompt_is_removed_or_kept(blip: Blip, photos: Path) -> None:
    bare = blip("caption", photos / "a.png", *RANDOM, "--prompt", "a photo of").out
    kept = blip("caption", photos / "a.png", *RANDOM, "--prompt", "a photo of", "--keep-prompt").out
    assert kept == "a photo of " + bare


def test_new_tokens_are_counted_after_the_prompt(blip: Blip, photos: Path) -> None:
    args = (photos / "a.png", *RANDOM, "--json", "--prompt", "a photo of", "--min-length", "0")
    output = blip("caption", *args, "--max-new-tokens", "3").out
    assert records(output)[0]["params"]["max_length"] == 4 + 3
    result = blip("caption", *args, "--max-new-tokens", "3", "--max-length", "9")
    assert result.code == 2 and "--max-new-tokens with --max-length" in result.err


def test_an_itm_model_adds_match_scores(blip: Blip, photos: Path) -> None:
    row = records(blip("caption", photos / "a.png", *RANDOM, "--itm-model", "random-tiny", "--json").out)[0]
    assert 0.0 < row["itm"] < 1.0


def test_a_dry_run_loads_no_model(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.api.load", None)
    result = blip("caption", photos, "--dry-run")
    assert result.code == 0 and len(result.out.splitlines()) == 5
    assert "5 inputs, model tiny, device auto, to standard output" in result.err


def test_a_printed_config_can_be_used(blip: Blip, photos: Path, tmp_path: Path) -> None:
    flags = (*RANDOM, "--sample", "--top-k", "5", "-n", "2", "--json")
    path = tmp_path / "mine.yaml"
    path.write_text(blip("caption", photos, *flags, "--print-config").out)
    assert "top_k: 5" in path.read_text()
    assert blip("caption", photos, "--config", path).out == blip("caption", photos, *flags).out
    assert records(blip("caption", photos, "--config", path, "--set", "top_k=7").out)[0]["params"]["top_k"] == 7
    assert records(blip("caption", photos, "--config", path, "--top-k", "9").out)[0]["params"]["top_k"] == 9


def test_strict_stops_at_the_first_failure(blip: Blip, photos: Path) -> None:
    result = blip("caption", photos, *RANDOM, "--strict", "--batch-size", "1")
    assert result.code == 1 and len(result.out.splitlines()) == 2


def test_a_too_large_image_is_one_line(blip: Blip, photos: Path) -> None:
    result = blip("caption", photos / "a.png", *RANDOM, "--max-megapixels", "0.001")
    assert result.code == 1 and "40x48 is 0.00192 megapixels; at most 0.001 allowed" in result.err


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A clip of 2.4 s, an invalid clip and an image."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.RandomState(0)
    noise = [Image.fromarray(rng.randint(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(60)]
    write_clip(folder / "v.mp4", pictures=noise)
    (folder / "w.mp4").write_bytes(b"no clip")
    noise[0].save(folder / "x.png")
    return folder


def test_a_video_is_read_as_frames_with_their_times(blip: Blip, clips: Path) -> None:
    rows = records(blip("caption", clips / "v.mp4", *RANDOM, "--json").out)
    assert [row["key"] for row in rows] == [f"{clips}/v.mp4#t={0.15 + 0.3 * i:.3f}" for i in range(8)]
    assert [problem(row) for row in rows] == [None] * 8 and (rows[0]["width"], rows[0]["height"]) == (64, 48)
    for flags, count in ((("--frames", "3"), 3), (("--fps", "5"), 12)):
        assert len(blip("caption", clips / "v.mp4", *flags, "--dry-run").out.splitlines()) == count


def test_frames_and_rates_are_checked(blip: Blip, clips: Path) -> None:
    for flags, message in (
        (("--frames", "2", "--fps", "1"), "--frames with --fps; must be one of the two"),
        (("--frames", "0"), "--frames 0; must be an integer of at least 1"),
        (("--fps", "0"), "--fps 0; must be a number from 0.001 to 1000"),
    ):
        result = blip("caption", clips / "v.mp4", *RANDOM, *flags)
        assert result.code == 2 and result.err == f"blip: error: {message}\n"


def test_a_broken_video_is_one_failure(blip: Blip, clips: Path) -> None:
    result = blip("caption", clips / "w.mp4", clips / "v.mp4", clips / "x.png", *RANDOM, "--json")
    rows = records(result.out)
    assert result.code == 1 and len(rows) == 1 + 8 + 1
    assert rows[0]["key"] == f"{clips}/w.mp4" and rows[0]["error"]["reason"].startswith("damaged or not a video")
    assert result.err.count("\n") == 2 and "10 inputs, 9 done, 1 failed" in result.err


def test_videos_without_the_extra_name_the_install_command(
    blip: Blip, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = blip("caption", clips / "v.mp4", *RANDOM)
    line = f'{clips}/v.mp4 is a video; video input needs an extra: pip install "blip-vlm[video]"'
    assert (result.code, result.out, result.err) == (4, "", f"blip: error: {line}\n")


def test_frames_do_not_depend_on_workers(blip: Blip, clips: Path) -> None:
    args = ("embed", clips / "v.mp4", *RANDOM, "--fps", "25", "--json")
    outputs = {blip(*args, "--workers", str(workers)).out for workers in (1, 2, 4)}
    assert len(outputs) == 1 and len(records(outputs.pop())) == 60


def test_a_summary_is_the_caption_of_the_best_matching_frame(blip: Blip, clips: Path) -> None:
    args = ("caption", clips / "x.png", clips / "w.mp4", clips / "v.mp4", *RANDOM, "--json")
    frames = records(blip(*args, "--itm-model", "random-tiny").out)[2:]
    result = blip(*args, "--summary", "--batch-size", "3")
    picture, broken, summary = records(result.out)
    assert picture["key"] == f"{clips}/x.png" and broken["error"]["type"] == "UnreadableImage" and result.code == 1
    best = max(frames, key=lambda row: row["itm"])
    assert len({row["itm"] for row in frames}) > 1 and summary == best | {"key": f"{clips}/v.mp4"}
    assert blip("caption", clips / "v.mp4", *RANDOM, "--summary").out == f"{best['text']}\n"


def test_a_summary_ignores_frames_that_fail(blip: Blip, clips: Path) -> None:
    result = blip("caption", damage(clips / "v.mp4"), *RANDOM, "--json", "--summary")
    (row,) = records(result.out)
    assert result.code == 1 and row["key"] == f"{clips}/v.mp4" and row["text"]
    assert f"{clips}/v.mp4: cannot be decoded at 0.750 s" in result.err and "8 inputs, 7 done, 1 failed" in result.err


def test_a_summary_of_frames_that_all_fail_is_a_failure(blip: Blip, clips: Path) -> None:
    result = blip("caption", clips / "v.mp4", *RANDOM, "--json", "--summary", "--max-megapixels", "0.001")
    (row,) = records(result.out)
    assert result.code == 1 and row["key"] == f"{clips}/v.mp4" and "megapixels" in row["error"]["reason"]


def test_summaries_are_resumed_by_video(blip: Blip, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    args = ("caption", clips / "v.mp4", clips / "x.png", *RANDOM, "--summary", "-o", out)
    assert blip(*args).code == 0
    whole = out.read_text()
    out.write_text(whole.splitlines(keepends=True)[1])
    assert "9 inputs, 8 done, 1 skipped" in blip(*args, "--resume").err and out.read_text() == whole
    assert "9 inputs, 0 done, 9 skipped" in blip(*args, "--resume").err and out.read_text() == whole


def test_summaries_have_no_sidecars_and_no_shards(blip: Blip, clips: Path) -> None:
    for flags in (("--xmp",), ("--shard", "0/2")):
        result = blip("caption", clips / "v.mp4", *RANDOM, "--summary", *flags)
        assert result.code == 2 and "--summary with sidecars or --shard" in result.err


# `blip` that stops in the middle of reading: it creates the file `reached` and waits for the file `release`
HELD = """\
import itertools, sys, time
from pathlib import Path
from PIL.ImageFile import ImageFile
from blip.cli import main

release, reached, *arguments = sys.argv[1:]
count, load = itertools.count(1), ImageFile.load

def hold(self):
    if next(count) == 40:
        Path(reached).touch()
        while not Path(release).exists():
            time.sleep(0.01)
    return load(self)

ImageFile.load = hold
sys.exit(main(arguments))
"""


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_resumed_to_the_same_file(
    blip: Blip, photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (photos / "c.jpg").unlink()
    for i in range(60):
        (photos / f"x{i:03}.png").write_bytes((photos / "a.png").read_bytes())
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    release, reached = tmp_path / "release", tmp_path / "reached"
    arguments = ["caption", str(photos), *RANDOM, "--beams", "1", "--batch-size", "2", "--threads", "1"]
    held = [sys.executable, "-c", HELD, str(release), str(reached), *arguments, "-o", str(out)]
    process = subprocess.Popen(held, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: reached.exists() and out.exists() and out.stat().st_size > 0, process)
    process.send_signal(number)
    release.touch()
    _, err = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 128 + number, err
    assert 0 < len(out.read_text().splitlines()) < 64
    assert blip(*arguments, "-o", out, "--resume").code == 0
    assert blip(*arguments, "-o", whole).code == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_second_run_into_an_output_is_refused(blip: Blip, photos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    with exclusive(out):
        flags = ("--resume",) if name.endswith(".jsonl") else ()
        result = blip("caption", photos / "a.png", *RANDOM, "-o", out, *flags)
    assert result.code == 2 and f"{out}: another run is writing to it" in result.err
    assert len(result.err.splitlines()) == 1 and not out.exists()


def test_photos_of_one_name_have_their_own_sidecars(blip: Blip, tmp_path: Path) -> None:
    for name, colour in (("photo.jpg", "red"), ("photo.png", "blue"), ("other.png", "red")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / name)
    assert blip("caption", tmp_path / "photo.jpg", *RANDOM, "--sidecar", "txt").code == 0
    assert [path.name for path in tmp_path.glob("*.txt")] == ["photo.jpg.txt"]
    result = blip("caption", tmp_path, *RANDOM, "--sidecar", ".txt", "-n", "2")
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["other.txt", "photo.jpg.txt", "photo.png.txt"]
    assert "3 inputs, 2 done, 1 skipped, 0 failed" in result.err
    assert len((tmp_path / "other.txt").read_text().splitlines()) == 2


def test_a_sidecar_that_cannot_be_changed_fails_alone(blip: Blip, photos: Path) -> None:
    (photos / "c.jpg").unlink()
    (photos / "a.xmp").write_text("notes")
    result = blip("caption", photos, *RANDOM, "--xmp", "--overwrite")
    assert result.code == 1 and "a.xmp: is not XML" in result.err and "4 inputs, 3 done, 1 failed" in result.err
    assert (photos / "a.xmp").read_text() == "notes" and (photos / "b.xmp").exists()


def test_all_captions_are_printed_and_minus_is_standard_output(blip: Blip, photos: Path) -> None:
    args = ("caption", photos / "a.png", photos / "b.jpg", *RANDOM, "-n", "3")
    lines = blip(*args).out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(photos / "a.png")] * 3 + [str(photos / "b.jpg")] * 3
    assert blip(*args, "-o", "-").out.splitlines() == lines
    assert len(blip("caption", photos / "a.png", *RANDOM, "-n", "3").out.splitlines()) == 3
    result = blip(*args, "--sidecar", "caption", "-o", "-")
    assert result.out.splitlines() == lines and (photos / "a.caption").read_text().count("\n") == 3
