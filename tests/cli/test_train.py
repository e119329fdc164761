"""`blip train` as a user types it; the loop itself is tested in tests/train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Blip
from tests.train.photos import COLOURS, write_photos

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
    assert said.code == 0 and "stopped at step 1 of 2 (time); run the same command again to resume" in said.err
    said = blip(*args)
    assert "resuming at step 1 of 2" in said.err and "2 steps done" in said.err


def test_what_of_a_model_is_trained_and_how_is_said_by_flags(blip: Blip, tmp_path: Path) -> None:
    args = ("train", "caption", "--data", "x", "--freeze", "vision,text", "--lora", "4", "--layer-decay", "0.8")
    said = blip(*args, "--strategy", "fsdp", "--patience", "2", "--print-config")
    assert said.code == 0, said.err
    found = yaml.safe_load(said.out)
    assert found["tune"]["freeze"] == ["vision", "encoder", "decoder"]
    assert (found["tune"]["lora"]["rank"], found["tune"]["layer_decay"]) == (4, 0.8)
    assert (found["train"]["strategy"], found["train"]["patience"]) == ("fsdp", 2)
    (tmp_path / "plain.yaml").write_text(blip("train", "caption", "--data", "x", "--print-config").out)
    said = blip("train", "--config", tmp_path / "plain.yaml", "--lora", "2", "--print-config")
    assert yaml.safe_load(said.out)["tune"]["lora"]["rank"] == 2


def test_a_run_that_gets_no_better_ends_well(blip: Blip, tmp_path: Path) -> None:
    photos, run = write_photos(tmp_path / "photos"), tmp_path / "run"
    never = ("--lr", "0", "--set", "train.weight_decay=0", "--eval-every", "1", "--patience", "1")
    small = ("--init", "random-tiny", "--batch-size", "4", "--workers", "0", "--device", "cpu")
    said = blip("train", "caption", "--data", photos, "--val", photos, "-o", run, "--steps", "9", *small, *never)
    assert said.code == 0, said.err
    assert "stopped at step 2 of 9: no improvement since step 1, which is kept; blip caption PHOTO" in said.err


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


@pytest.mark.parametrize("task", ["retrieval", "itm", "vqa", "nlvr"])
def test_every_task_takes_a_table_with_columns_of_its_own(blip: Blip, tmp_path: Path, task: str) -> None:
    photos, run = write_photos(tmp_path / "photos"), tmp_path / "run"
    header = {"retrieval": "file,about", "itm": "file,about", "vqa": "file,ask,said", "nlvr": "images,claim,true"}[task]
    row = {
        "retrieval": "{0}.png,a {0} wall",
        "itm": "{0}.png,a {0} wall",
        "vqa": "{0}.png,which colour?,{0}",
        "nlvr": '"[""{0}.png"", ""red.png""]",both are red,{1}',
    }[task]
    lines = [header, *(row.format(name, name == "red") for name in COLOURS)]
    (photos / "mine.csv").write_text("\n".join(lines))
    columns = {
        "retrieval": ("--image-column", "file", "--text-column", "about"),
        "itm": ("--image-column", "file", "--text-column", "about"),
        "vqa": ("--image-column", "file", "--question-column", "ask", "--answer-column", "said"),
        "nlvr": ("--image-column", "images", "--sentence-column", "claim", "--label-column", "true"),
    }[task]
    model = {"vqa": "random-tiny-vqa"}.get(task, "random-tiny")
    queue = ("--queue-size", "7") if task in ("retrieval", "itm") else ()
    small = ("--init", model, *SMALL[2:])
    said = blip("train", task, "--data", photos / "mine.csv", "-o", run, *columns, *queue, *small)
    assert said.code == 0, said.err
    assert "training samples only; give --val for scores" in said.err and f"-m {run}" in said.err
    assert yaml.safe_load((run / "config.yaml").read_text())["task"] == task


def test_broken_rows_stop_a_run_or_are_listed(blip: Blip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = write_photos(tmp_path / "photos")
    rows = [{"image": f"{name}.png", "caption": f"a {name} wall"} for name in COLOURS]
    (photos / "a.json").write_text(json.dumps([*rows, {"image": "red.png"}, {"image": "no.png", "caption": "x"}]))
    args = ("train", "caption", "--data", photos / "a.json", "-o", tmp_path / "run", *SMALL)
    said = blip(*args)
    assert said.code == 1 and "a.json:9: no column of caption" in said.err and not (tmp_path / "run").exists()
    assert blip(*args, "--skip-bad").code == 0
    assert "2 bad rows left out" in caplog.text and "a.json:10: image" in caplog.text


def test_a_known_set_is_found_where_it_was_fetched(blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP_HOME", str(tmp_path / "home"))
    folder = tmp_path / "coco"
    write_photos(folder / "images" / "train2014")
    rows = [{"image": f"train2014/{name}.png", "caption": f"a {name} wall", "image_id": name} for name in COLOURS]
    (folder / "coco_karpathy_train.json").write_text(json.dumps(rows))
    args = ("train", "caption", "-o", tmp_path / "run", *SMALL)
    said = blip(*args, "--data", f"coco:{folder}")
    assert said.code == 0, said.err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"].endswith("coco_karpathy_train.json") and config["reading"]["root"] == [str(folder / "images")]
    assert "blip datasets get coco" in blip(*args[:2], "-o", tmp_path / "other", "--data", "coco", *SMALL).err


def test_presets_that_only_measure_say_how(blip: Blip, tmp_path: Path) -> None:
    said = blip("train", "--config", "preset:nocaps", "-o", tmp_path / "run")
    assert said.code == 2 and "nothing to train: nocaps.yaml: blip eval nocaps" in said.err
