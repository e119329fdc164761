"""Outputs of every command: endings, full disks, and what a killed run leaves behind."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Blip
from tests.waiting import wait_until

RANDOM = ("-m", "random-tiny")


@pytest.mark.parametrize("name", ["a.xlsx", "a.jsonl.gz", "a.h5", "a.pt", "a.docx", "a"])
@pytest.mark.parametrize(
    "args",
    [
        ("caption", "PHOTOS"),
        ("ask", "PHOTOS", "-q", "what?"),
        ("match", "PHOTOS", "-t", "a"),
        ("embed", "PHOTOS"),
        ("search", "a cat"),
        ("datasets", "answers", "PHOTOS"),
        ("models", "convert", "random-tiny", "--to", "original"),
        ("eval", "caption", "--data", "PHOTOS", "--submission"),
    ],
    ids=lambda args: args[0],
)
def test_unknown_endings_of_files_are_refused_before_any_work(
    args: tuple[str, ...], name: str, blip: Blip, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blip.api.load", None)
    flags = [str(photos) if arg == "PHOTOS" else arg for arg in args]
    result = blip(*flags, *([] if args[-1] == "--submission" else ["-o"]), tmp_path / name)
    assert result.code == 2 and len(result.err.splitlines()) == 1, result.err
    assert f"{tmp_path / name}: " in result.err and "; must be " in result.err
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a.json", "a.npz", "a.png", "a.pth", "a.html", "a.tar.gz", "-"])
@pytest.mark.parametrize(
    "args",
    [
        ("explain", "PHOTOS", "-t", "a"),
        ("export", *RANDOM),
        ("models", "convert", "random-tiny"),
        ("train", "caption", "--data", "PHOTOS"),
        ("eval", "caption", "--data", "PHOTOS"),
        ("datasets", "fetch-images", "urls.txt"),
    ],
    ids=lambda args: args[0],
)
def test_files_in_the_place_of_folders_are_refused_before_any_work(
    args: tuple[str, ...], name: str, blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blip.api.load", None)
    monkeypatch.chdir(photos.parent)
    result = blip(*(photos if arg == "PHOTOS" else arg for arg in args), "-o", name)
    assert result.code == 2 and result.err.splitlines() == [f"blip: error: -o {name}; must be a folder"]
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let every file end at a size in bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def texts(photos: Path) -> Path:
    """Photos with texts."""
    (photos / "c.jpg").unlink()
    for i in range(12):
        shutil.copy(photos / "a.png", photos / f"x{i}.png")
    for photo in [*photos.glob("*.*g"), *photos.glob("sub/*.png")]:
        photo.with_suffix(".txt").write_text("a long text about a photo " * 8)
    return photos


@pytest.mark.parametrize(
    ("args", "name"),
    [
        *((("caption", "PHOTOS", *RANDOM), name) for name in ("o.jsonl", "o.csv", "o.txt", "o.parquet", "o.json")),
        (("embed", "PHOTOS", *RANDOM), "o.npz"),
        (("embed", "PHOTOS", *RANDOM), "o.safetensors"),
        (("embed", "PHOTOS", *RANDOM, "--format", "npz"), "o.vectors"),
        (("explain", "PHOTOS", "-t", "a cat", *RANDOM), "maps"),
        (("eval", "caption", "--data", "PHOTOS", *RANDOM, "--metrics", "bleu", "--meteor-spice", "never"), "eval"),
        *((("datasets", "convert", "PHOTOS"), name) for name in ("a.tar", "folder", "a.csv", "a.jsonl", "a.json")),
        (("models", "convert", "random-tiny"), "model"),
        (("models", "convert", "random-tiny", "--to", "original"), "model.pth"),
        (("models", "convert", "random-tiny", "--to", "original"), "model.safetensors"),
        (("export", "-m", "tiny", "--to", "web"), "page"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_full_disk_is_one_line(args: tuple[str, ...], name: str, blip: Blip, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    with full_disk(1000):  # more than is printed
        result = blip(*(texts if arg == "PHOTOS" else arg for arg in args), "-o", out)
    assert result.code == 4 and "Traceback" not in result.err
    last = result.err.splitlines()[-1]
    assert last.startswith(f"blip: error: {out.with_suffix('')}")  # for tables also the folder of images
    assert "no space left on the disk" in last or "the disk may be full" in last
    assert not list(tmp_path.rglob(".*"))
    if args[0] in ("caption", "embed"):
        result = blip(*(texts if arg == "PHOTOS" else arg for arg in args), "-o", out, "--resume")
        assert result.code == 0 and out.stat().st_size > 0, result.err


def test_a_full_disk_below_a_sidecar_leaves_no_half_file(blip: Blip, texts: Path) -> None:
    for path in texts.rglob("*.txt"):
        path.unlink()
    with full_disk(1000):
        result = blip("caption", texts, *RANDOM, "--sidecar", ".txt", "--prefix", "long " * 500)
    assert result.code == 4 and "a.txt: no space left on the disk" in result.err
    assert list(texts.rglob("*.txt")) == [] and not list(texts.rglob(".*"))


@pytest.mark.integration
def test_a_killed_run_is_continued_and_leaves_nothing(blip: Blip, photos: Path, tmp_path: Path) -> None:
    (photos / "c.jpg").unlink()
    for i in range(100):
        (photos / f"x{i:03d}.png").write_bytes((photos / "a.png").read_bytes())
    out, store = tmp_path / "out" / "o.csv", tmp_path / "out" / "o.csv.part.jsonl"
    args = ("caption", str(photos), *RANDOM, "-o", str(out), "--batch-size", "1")
    with subprocess.Popen([sys.executable, "-m", "blip", *args], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: store.exists() and store.stat().st_size > 0, process)
        process.send_signal(signal.SIGKILL)
    done = len(store.read_bytes().splitlines())
    result = blip(*args)
    assert result.code == 2 and "holds the results of an unfinished run; use --resume or --overwrite" in result.err
    result = blip(*args, "--resume")
    assert result.code == 0 and f"104 inputs, {104 - done} done, {done} skipped" in result.err
    assert [path.name for path in out.parent.iterdir()] == ["o.csv"]


@pytest.mark.integration
def test_two_shards_into_one_file_lose_no_row(blip: Blip, photos: Path, tmp_path: Path) -> None:
    """The second run is refused while the first one writes, and adds its rows afterwards."""
    (photos / "c.jpg").unlink()
    for i in range(60):
        (photos / f"x{i:03d}.png").write_bytes((photos / "a.png").read_bytes())
    out = tmp_path / "o.jsonl"
    args = ("caption", str(photos), *RANDOM, "-o", str(out), "--resume", "--batch-size", "1", "--shard")
    with subprocess.Popen([sys.executable, "-m", "blip", *args, "0/2"], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: out.exists() and out.stat().st_size > 0, process)
        result = blip(*args, "1/2")
        assert process.poll() is None
    assert result.code == 2 and result.err == (
        f"blip: error: {out}: another run is writing to it; wait until it has ended, or choose another output\n"
    )
    assert process.returncode == 0 and blip(*args, "1/2").code == 0
    assert len({json.loads(line)["key"] for line in out.read_text().splitlines()}) == 64


def test_eval_counts_what_it_evaluates(blip: Blip, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blip.cli.output.PLAIN_SECONDS", 0.0)
    flags = ("--metrics", "bleu", "--meteor-spice", "never", "--limit", "2", "--batch-size", "1")
    result = blip("eval", "caption", "--data", texts, *RANDOM, *flags)
    assert result.code == 0 and "2/2 (" in result.err and "/4 (" not in result.err
