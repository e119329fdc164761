"""`blip caption` as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from blip.io.schemas import problem
from tests.cli.conftest import Blip

RANDOM = ("-m", "random-tiny")


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_picture_gives_the_bare_caption(blip: Blip, photos: Path) -> None:
    said = blip("caption", photos / "a.png", *RANDOM)
    assert said.code == 0 and len(said.out.splitlines()) == 1 and "\t" not in said.out
    assert said.err.startswith("1 inputs, 1 done, 0 failed, ")


def test_a_broken_picture_never_loses_the_others(blip: Blip, photos: Path) -> None:
    said = blip("caption", photos, *RANDOM)
    assert said.code == 1
    assert [line.split("\t")[0] for line in said.out.splitlines()] == [
        f"{photos}/{name}" for name in ("a.png", "b.jpg", "sub/d.png", "sub/e ü.png")
    ]
    assert f"{photos}/c.jpg: truncated image" in said.err
    assert "5 inputs, 4 done, 1 failed" in said.err


def test_records_are_in_order_and_valid_with_the_error_in_its_place(blip: Blip, photos: Path) -> None:
    said = blip("caption", photos, *RANDOM, "--json", "-n", "2", "--max-length", "8")
    rows = records(said.out)
    assert [Path(row["key"]).name for row in rows] == ["a.png", "b.jpg", "c.jpg", "d.png", "e ü.png"]
    assert rows[2]["error"]["type"] == "UnreadableImage"
    assert [problem(row) for row in rows] == [None] * 5
    for row in rows[:2]:
        assert list(row)[:4] == ["schema", "key", "text", "score"]
        assert len(row["alternatives"]) == 1 and row["width"] == 40 and row["height"] == 48


def test_batches_and_readers_change_nothing(blip: Blip, photos: Path) -> None:
    found = {
        blip("caption", photos, *RANDOM, "--json", "--batch-size", str(size), "--workers", str(workers)).out
        for size, workers in ((1, 1), (3, 2), (8, 4))
    }
    assert len(found) == 1


def test_sampling_depends_on_seed_and_key_alone(blip: Blip, photos: Path) -> None:
    def sampled(*args: str | Path) -> str:
        return blip("caption", *args, *RANDOM, "--sample", "--temperature", "9", "--json").out

    assert sampled(photos / "b.jpg") in sampled(photos)
    assert sampled(photos / "b.jpg", "--seed", "1") != sampled(photos / "b.jpg")


def test_sidecars_twice_the_second_time_without_a_model(
    blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "c.jpg").unlink()
    said = blip("caption", photos, *RANDOM, "--sidecar", ".txt", "--existing", "skip", "--prefix", "photo: ")
    assert said.code == 0 and said.out == ""
    assert (photos / "sub" / "d.txt").read_text().startswith("photo: ")
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    monkeypatch.setattr("blip.api.load", None)
    said = blip("caption", photos, *RANDOM, "--sidecar", ".txt", "--existing", "skip")
    assert said.code == 0 and "all have their texts" in said.err
    assert before == {path: path.stat().st_mtime_ns for path in photos.rglob("*")}


def test_sidecar_folders_mirror_the_tree(blip: Blip, photos: Path, tmp_path: Path) -> None:
    blip("caption", photos, *RANDOM, "--sidecar-dir", tmp_path / "texts", "--xmp")
    assert [p.name for p in sorted((tmp_path / "texts").rglob("*.xmp"))] == ["a.xmp", "b.xmp", "d.xmp", "e ü.xmp"]


def test_an_output_file_is_not_overwritten_unasked(blip: Blip, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert blip("caption", photos / "a.png", *RANDOM, "-o", out).code == 0
    written = out.read_text()
    assert written.splitlines()[0].startswith("schema,key,text,score")
    said = blip("caption", photos / "a.png", *RANDOM, "-o", out)
    assert said.code == 2 and "exists; use --existing" in said.err
    assert blip("caption", photos / "a.png", *RANDOM, "-o", out, "--existing", "skip").code == 0
    assert out.read_text() == written


def test_the_prompt_is_removed_or_kept(blip: Blip, photos: Path) -> None:
    bare = blip("caption", photos / "a.png", *RANDOM, "--prompt", "a photo of").out
    kept = blip("caption", photos / "a.png", *RANDOM, "--prompt", "a photo of", "--keep-prompt").out
    assert kept == "a photo of" + bare or kept == "a photo of " + bare.lstrip()


def test_new_tokens_are_counted_after_the_prompt(blip: Blip, photos: Path) -> None:
    args = (photos / "a.png", *RANDOM, "--json", "--prompt", "a photo of", "--min-length", "0")
    found = blip("caption", *args, "--max-new-tokens", "3").out
    assert records(found)[0]["params"]["max_length"] == 4 + 3
    said = blip("caption", *args, "--max-new-tokens", "3", "--max-length", "9")
    assert said.code == 2 and "--max-new-tokens with --max-length" in said.err


def test_a_judge_adds_the_chance_of_a_match(blip: Blip, photos: Path) -> None:
    row = records(blip("caption", photos / "a.png", *RANDOM, "--itm", "random-tiny", "--json").out)[0]
    assert 0.0 < row["itm"] < 1.0


def test_a_dry_run_loads_no_model(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.api.load", None)
    said = blip("caption", photos, "--dry-run")
    assert said.code == 0 and len(said.out.splitlines()) == 5
    assert "5 inputs, model tiny, device auto, to standard output" in said.err


def test_printed_settings_are_settings(blip: Blip, photos: Path, tmp_path: Path) -> None:
    flags = (*RANDOM, "--sample", "--top-k", "5", "-n", "2", "--json")
    path = tmp_path / "mine.yaml"
    path.write_text(blip("caption", photos, *flags, "--print-config").out)
    assert "top_k: 5" in path.read_text()
    assert blip("caption", photos, "--config", path).out == blip("caption", photos, *flags).out
    assert records(blip("caption", photos, "--config", path, "--set", "top_k=7").out)[0]["params"]["top_k"] == 7
    assert records(blip("caption", photos, "--config", path, "--top-k", "9").out)[0]["params"]["top_k"] == 9


def test_the_first_failure_ends_a_strict_run(blip: Blip, photos: Path) -> None:
    said = blip("caption", photos, *RANDOM, "--strict", "--batch-size", "1")
    assert said.code == 1 and len(said.out.splitlines()) == 2


def test_too_large_a_picture_is_one_line(blip: Blip, photos: Path) -> None:
    said = blip("caption", photos / "a.png", *RANDOM, "--max-megapixels", "0.001")
    assert said.code == 1 and "40x48 is 0.00192 megapixels; at most 0.001 allowed" in said.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_resumed_to_the_same_file(photos: Path, tmp_path: Path, number: signal.Signals) -> None:
    (photos / "c.jpg").unlink()
    for i in range(150):
        (photos / f"x{i:03}.png").write_bytes((photos / "a.png").read_bytes())
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    start = [sys.executable, "-m", "blip", "caption", str(photos), *RANDOM, "--batch-size", "2", "--threads", "1"]
    process = subprocess.Popen([*start, "-o", str(out)], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert 0 < len(out.read_text().splitlines()) < 154
    subprocess.run([*start, "-o", str(out), "--resume"], check=True, capture_output=True)
    subprocess.run([*start, "-o", str(whole)], check=True, capture_output=True)
    assert out.read_bytes() == whole.read_bytes()
