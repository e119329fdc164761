"""`blip train` as a user types it; the loop itself is tested in tests/train."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Blip
from tests.train.photos import write_photos

SMALL = ("--init", "random-tiny", "--batch-size", "4", "--steps", "2", "--workers", "0", "--device", "cpu")


def test_a_run_from_a_folder_of_photos_captions_afterwards(blip: Blip, tmp_path: Path) -> None:
    photos, run = write_photos(tmp_path / "photos"), tmp_path / "run"
    said = blip("train", "caption", "--data", photos, "-o", run, *SMALL)
    assert said.code == 0, said.err
    assert f"2 steps done; blip caption PHOTO -m {run}" in said.err
    assert blip("caption", photos / "red.png", "-m", run).code == 0


def test_presets_are_listed_and_configs_are_printed(blip: Blip, tmp_path: Path) -> None:
    assert "caption_coco " in blip("train", "--list").out
    said = blip("train", "--config", "preset:caption_coco", "--data", "x", "--set", "train.seed=7", "--print-config")
    assert said.code == 0 and "seed: 7" in said.out and "task: caption" in said.out
    (tmp_path / "c.yaml").write_text(said.out)
    assert blip("train", "--config", tmp_path / "c.yaml", "--print-config").out == said.out


def test_a_stopped_run_says_how_to_go_on(blip: Blip, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    args = ("train", "pretrain", "--data", photos, "-o", tmp_path / "run", "--queue-size", "8", *SMALL)
    said = blip(*args, "--max-minutes", "0")
    assert said.code == 0 and "stopped at step 1 of 2 (time); the same command goes on" in said.err
    said = blip(*args)
    assert "going on at step 1 of 2" in said.err and "2 steps done" in said.err


def test_what_is_missing_or_wrong_is_one_line(blip: Blip, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    (tmp_path / "a.yaml").write_text("task: caption\ntrain:\n  leaning_rate: 1\n  lr_decay: 1\n")
    for args, message in (
        ((), "no task; must be 'blip train TASK'"),
        (("caption",), "no data; give --data"),
        (("caption", "--data", photos), "no folder for the run; give -o RUN_DIR"),
        (("captoin", "--data", photos, "-o", tmp_path / "r"), "unknown task 'captoin'; did you mean 'caption'?"),
        (("caption", "--data", photos, "-o", tmp_path / "r", "--epochs", "1", "--steps", "1"), "--epochs with --steps"),
        (
            ("--config", tmp_path / "a.yaml", "--data", photos, "-o", tmp_path / "r"),
            "a.yaml:3: unknown key",
        ),
        (("pretrain", "--config", "preset:caption_coco", "--data", photos), "is for 'caption'"),
    ):
        said = blip("train", *args)
        assert (said.code, said.out) == (2, ""), said
        assert message in said.err and len(said.err.splitlines()) == 1, said.err
    assert not (tmp_path / "r").exists()


def test_a_batch_larger_than_the_data_and_data_without_texts_are_one_line(blip: Blip, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    said = blip("train", "caption", "--data", photos, "-o", tmp_path / "r", *SMALL, "--batch-size", "9")
    assert said.code == 2 and "batch size 9: the data has only 8 samples" in said.err
    (photos / "red.txt").unlink()
    said = blip("train", "caption", "--data", photos, "-o", tmp_path / "r", *SMALL)
    assert said.code != 0 and "red.png" in said.err
