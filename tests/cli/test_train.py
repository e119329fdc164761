"""`blip train` from the command line; the loop itself is tested in tests/train."""

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
    result = blip("train", "caption", "--data", photos, "-o", run, *SMALL)
    assert result.code == 0, result.err
    assert f"2 steps done; blip caption PHOTO -m {run}" in result.err
    assert blip("caption", photos / "red.png", "-m", run).code == 0


def test_presets_are_listed_and_configs_are_printed(blip: Blip, tmp_path: Path) -> None:
    assert "caption_coco " in blip("train", "--list").out
    result = blip("train", "--config", "preset:caption_coco", "--data", "x", "--set", "train.seed=7", "--print-config")
    assert result.code == 0 and "seed: 7" in result.out and "task: caption" in result.out
    (tmp_path / "c.yaml").write_text(result.out)
    assert blip("train", "--config", tmp_path / "c.yaml", "--print-config").out == result.out


def test_a_stopped_run_names_the_way_to_resume(blip: Blip, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    args = ("train", "pretrain", "--data", photos, "-o", tmp_path / "run", "--queue-size", "8", *SMALL)
    result = blip(*args, "--max-minutes", "0")
    assert result.code == 0 and "stopped at step 1 of 2 (time); run the same command again to resume" in result.err
    result = blip(*args)
    assert "resuming at step 1 of 2" in result.err and "2 steps done" in result.err


def test_flags_choose_the_trained_parameters(blip: Blip, tmp_path: Path) -> None:
    args = ("train", "caption", "--data", "x", "--freeze", "vision,text", "--lora", "4", "--layer-decay", "0.8")
    result = blip(*args, "--strategy", "fsdp", "--patience", "2", "--print-config")
    assert result.code == 0, result.err
    config = yaml.safe_load(result.out)
    assert config["tune"]["freeze"] == ["vision", "encoder", "decoder"]
    assert (config["tune"]["lora"]["rank"], config["tune"]["layer_decay"]) == (4, 0.8)
    assert (config["train"]["strategy"], config["train"]["patience"]) == ("fsdp", 2)
    (tmp_path / "plain.yaml").write_text(blip("train", "caption", "--data", "x", "--print-config").out)
    result = blip("train", "--config", tmp_path / "plain.yaml", "--lora", "2", "--print-config")
    assert yaml.safe_load(result.out)["tune"]["lora"]["rank"] == 2


def test_a_run_without_improvement_ends_with_0(blip: Blip, tmp_path: Path) -> None:
    photos, run = write_photos(tmp_path / "photos"), tmp_path / "run"
    never = ("--lr", "0", "--set", "train.weight_decay=0", "--eval-every", "1", "--patience", "1")
    small = ("--init", "random-tiny", "--batch-size", "4", "--workers", "0", "--device", "cpu")
    result = blip("train", "caption", "--data", photos, "--val", photos, "-o", run, "--steps", "9", *small, *never)
    assert result.code == 0, result.err
    assert "stopped at step 2 of 9: no improvement since step 1, which is kept; blip caption PHOTO" in result.err


def test_errors_are_one_line(blip: Blip, tmp_path: Path) -> None:
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
        result = blip("train", *args)
        assert (result.code, result.out) == (2, ""), result
        assert message in result.err and len(result.err.splitlines()) == 1, result.err
    assert not (tmp_path / "r").exists()


def test_a_batch_larger_than_the_data_and_data_without_texts_are_one_line(blip: Blip, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    result = blip("train", "caption", "--data", photos, "-o", tmp_path / "r", *SMALL, "--batch-size", "9")
    assert result.code == 2 and "batch size 9: the data has only 8 samples" in result.err
    (photos / "red.txt").unlink()
    result = blip("train", "caption", "--data", photos, "-o", tmp_path / "r", *SMALL)
    assert result.code != 0 and "red.png" in result.err


@pytest.mark.parametrize("task", ["retrieval", "itm", "vqa", "nlvr"])
def test_every_task_reads_a_table_with_other_column_names(blip: Blip, tmp_path: Path, task: str) -> None:
    photos, run = write_photos(tmp_path / "photos"), tmp_path / "run"
    header = {"retrieval": "file,about", "itm": "file,about", "vqa": "file,ask,result", "nlvr": "images,claim,true"}[
        task
    ]
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
        "vqa": ("--image-column", "file", "--question-column", "ask", "--answer-column", "result"),
        "nlvr": ("--image-column", "images", "--sentence-column", "claim", "--label-column", "true"),
    }[task]
    model = {"vqa": "random-tiny-vqa"}.get(task, "random-tiny")
    queue = ("--queue-size", "7") if task in ("retrieval", "itm") else ()
    small = ("--init", model, *SMALL[2:])
    result = blip("train", task, "--data", photos / "mine.csv", "-o", run, *columns, *queue, *small)
    assert result.code == 0, result.err
    assert "training samples only; give --val for scores" in result.err and f"-m {run}" in result.err
    assert yaml.safe_load((run / "config.yaml").read_text())["task"] == task


def test_broken_rows_stop_a_run_or_are_listed(blip: Blip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = write_photos(tmp_path / "photos")
    rows = [{"image": f"{name}.png", "caption": f"a {name} wall"} for name in COLOURS]
    (photos / "a.json").write_text(json.dumps([*rows, {"image": "red.png"}, {"image": "no.png", "caption": "x"}]))
    args = ("train", "caption", "--data", photos / "a.json", "-o", tmp_path / "run", *SMALL)
    result = blip(*args)
    assert result.code == 1 and "a.json:9: no column of caption" in result.err and not (tmp_path / "run").exists()
    assert blip(*args, "--skip-bad").code == 0
    assert "2 bad rows left out" in caplog.text and "a.json:10: image" in caplog.text


def test_a_known_data_set_is_read_from_its_folder(blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIP_HOME", str(tmp_path / "home"))
    folder = tmp_path / "coco"
    write_photos(folder / "images" / "train2014")
    rows = [{"image": f"train2014/{name}.png", "caption": f"a {name} wall", "image_id": name} for name in COLOURS]
    (folder / "coco_karpathy_train.json").write_text(json.dumps(rows))
    args = ("train", "caption", "-o", tmp_path / "run", *SMALL)
    result = blip(*args, "--data", f"coco:{folder}")
    assert result.code == 0, result.err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"].endswith("coco_karpathy_train.json") and config["reading"]["root"] == [str(folder / "images")]
    assert "blip datasets get coco" in blip(*args[:2], "-o", tmp_path / "other", "--data", "coco", *SMALL).err


def test_presets_for_evaluation_name_the_command(blip: Blip, tmp_path: Path) -> None:
    result = blip("train", "--config", "preset:nocaps", "-o", tmp_path / "run")
    assert result.code == 2 and "nothing to train: nocaps.yaml: blip eval nocaps" in result.err


def many_photos(folder: Path) -> Path:
    """Sixteen photos: two of each colour."""
    write_photos(folder)
    for name in COLOURS:
        (folder / f"{name}2.png").write_bytes((folder / f"{name}.png").read_bytes())
        (folder / f"{name}2.txt").write_text(f"a {name} wall\n")
    return folder


def test_photos_are_held_out_unless_declined(blip: Blip, tmp_path: Path) -> None:
    photos, run = many_photos(tmp_path / "photos"), tmp_path / "run"
    result = blip("train", "caption", "--data", photos, "-o", run, *SMALL)
    assert result.code == 0 and "none of 16 photos" not in result.err
    assert "val: null" in (run / "config.yaml").read_text()  # random weights: nothing to compare with
    args = ("train", "caption", "--init", run, "--data", photos, "--batch-size", "4", "--steps", "2", "--workers", "0")
    result = blip(*args, "-o", tmp_path / "held")
    assert result.code == 0 and "held out 3 of 16 photos for evaluation; --val none trains on all" in result.err
    assert "start evaluated: loss" in result.err and "step 2 evaluated: loss" in result.err
    result = blip(*args, "-o", tmp_path / "half", "--val", "50%")
    assert "held out 8 of 16 photos" in result.err
    result = blip(*args, "-o", tmp_path / "all", "--val", "none")
    assert result.code == 0 and "held out" not in result.err
    assert "evaluated: training samples only" in result.err
    assert " MB (optimizer state dropped" in result.err and not (tmp_path / "all" / "checkpoints").exists()


def test_the_start_is_announced_once(blip: Blip, tmp_path: Path) -> None:
    photos = many_photos(tmp_path / "photos")
    args = ("train", "caption", "--data", photos, "-o", tmp_path / "run", "--steps", "2", "--batch-size", "2")
    small = ("--workers", "0", "--val", "none", "--freeze", "vision,encoder")
    result = blip(*args, *small, "--max-minutes", "0")
    assert "starting from the bundled model 'tiny'" in result.err
    assert (
        "this run cannot become a Transformers folder ('blip export --to hf'): Transformers cannot hold" in result.err
    )
    result = blip(*args, *small)
    assert "resuming at step 1 of 2" in result.err and "starting from" not in result.err
    assert "Transformers" not in result.err


def test_vqa_starts_from_the_bundled_answerer(blip: Blip, tmp_path: Path) -> None:
    config = yaml.safe_load(blip("train", "vqa", "--data", "x", "--print-config").out)
    assert config["start"]["init"] == "tiny-vqa" and config["val"] == "auto" and config["train"]["start_share"] == 0.6
    result = blip(
        "train", "vqa", "--data", "x", "--ema", "0.99", "--start-share", "0", "--keep-state", "--print-config"
    )
    loop = yaml.safe_load(result.out)["train"]
    assert (loop["ema"], loop["start_share"], loop["keep_state"]) == (0.99, 0.0, True)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_truncated_image_is_skipped_and_listed(
    blip: Blip, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: str
) -> None:
    photos = write_photos(tmp_path / "photos")
    data = (photos / "red.png").read_bytes()
    (photos / "cut.png").write_bytes(data[: len(data) // 2])
    (photos / "cut.txt").write_text("a red wall\n")
    small = ("--init", "random-tiny", "--batch-size", "4", "--device", "cpu", "--steps", "6", "--workers", workers)
    args = ("train", "caption", "--data", photos, *small)
    result = blip(*args, "-o", tmp_path / "strict")
    assert result.code == 1 and "cut.png" in result.err
    result = blip(*args, "-o", tmp_path / "run", "--skip-bad")
    assert result.code == 0, result.err
    assert caplog.text.count("cut.png") == 1
    assert "1 bad row left out; the next good one took its place" in result.err
    first = blip(*args, "-o", tmp_path / "parts", "--skip-bad", "--save-every", "1", "--max-minutes", "0")
    assert first.code == 0 and blip(*args, "-o", tmp_path / "parts", "--skip-bad", "--save-every", "1").code == 0
    models = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("run", "parts")]
    assert models[0] == models[1]


def test_the_cut_picture_of_the_cases_is_left_out(blip: Blip, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Path(__file__).parents[1] / "cases" / "train_cut"
    args = ("train", "caption", "--data", data, "-o", tmp_path / "run", "--init", "random-tiny", "--skip-bad")
    result = blip(*args, "--workers", "0", "--batch-size", "5", "--steps", "2")
    assert result.code == 0 and "1 bad row left out" in result.err and caplog.text.count("cut.jpg: ") == 1


def test_unreadable_held_out_photos_are_skipped_and_listed(
    blip: Blip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = many_photos(tmp_path / "photos")
    for name in COLOURS:
        (photos / f"{name}2.png").write_bytes((photos / f"{name}2.png").read_bytes()[:200])
    args = ("train", "caption", "--data", photos, "--val", "50%", *SMALL)
    assert blip(*args, "-o", tmp_path / "strict").code == 1
    result = blip(*args, "-o", tmp_path / "run", "--skip-bad")
    assert result.code == 0, result.err
    assert "bad rows left out" in caplog.text and "2 steps done" in result.err
