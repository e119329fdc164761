"""`blip datasets`: what each subcommand prints and returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blip.data import known_datasets
from tests.cli.conftest import Blip
from tests.data.test_img2dataset import uvx  # noqa: F401
from tests.data.test_known_datasets import Host, home, host  # noqa: F401
from tests.data.test_sources import png, tar_sample, write_json, write_tar


@pytest.fixture
def coco(tmp_path: Path, host: Host) -> Path:  # noqa: F811
    """Serve the annotation files of coco except one; return the folder to download them to."""
    rows = [{"image": "val2014/COCO_val2014_000000000042.jpg", "caption": ["a dog", "a dog runs"]}]
    for split in ("train", "val", "test"):
        host.files[f"datasets/coco_karpathy_{split}.json"] = json.dumps(rows).encode()
    host.files["datasets/coco_karpathy_val_gt.json"] = b"{}"
    return tmp_path / "coco"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two good rows, a missing image, an empty text."""
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    rows = [("a.png", "a cat"), ("b.png", "two cats"), ("gone.png", "nothing"), ("a.png", " ")]
    return write_json(tmp_path / "data.json", [{"image": image, "caption": text} for image, text in rows])


def test_bare_verb_and_list_name_all_sets_and_their_folders(blip: Blip, tmp_path: Path) -> None:
    known_datasets.remember("nlvr2", tmp_path)
    result = blip("datasets")
    assert result.code == 0 and result.out == blip("datasets", "list").out
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert [line[0] for line in lines] == [entry.name for entry in known_datasets.ENTRIES]
    assert lines[3][:3] == ["nlvr2", "train,val,test", str(tmp_path)] and lines[0][2] == "-"
    records = [json.loads(line) for line in blip("datasets", "list", "--json").out.splitlines()]
    assert records[4]["files"][0]["rows"] == 4500 and records[3]["folder"] == str(tmp_path)


def test_info_shows_files_and_tree(blip: Blip) -> None:
    result = blip("datasets", "info", "nocaps")
    base = "https://storage.googleapis.com/sfr-vision-language-research/datasets"
    rows = "one row per image: image, img_id; no captions, scored by a server"
    assert result.out.splitlines()[4:] == [
        f"nocaps_val.json\tval\t4,500\t{rows}\t{base}/nocaps_val.json",
        f"nocaps_test.json\ttest\t10,600\t{rows}\t{base}/nocaps_test.json",
        "DIR/",
        "├── nocaps_val.json",
        "├── nocaps_test.json",
        "├── val/   4,500 photos: https://nocaps.org/download lists their URLs",
        "└── test/  10,600 photos: https://nocaps.org/download lists their URLs",
    ]
    assert json.loads(blip("datasets", "info", "vqa", "--json").out)["image_root"] == "images"
    assert "did you mean 'nocaps'" in blip("datasets", "info", "nocap").err


def test_get_downloads_and_reports_failures_and_missing_images(blip: Blip, coco: Path) -> None:
    result = blip("datasets", "get", "coco", "--to", coco)
    assert result.code == 1
    assert result.out.splitlines() == [f"{coco}/coco_karpathy_{n}.json" for n in ("train", "val", "test", "val_gt")]
    lines = result.err.splitlines()
    assert lines[1].startswith("coco_karpathy_val.json: SHA-256 ")
    assert lines[1].endswith("is recorded beside it (none is published); 1 rows, but 5,000 were published")
    assert lines[4] == (
        f"coco_karpathy_test_gt.json: {known_datasets.HOST}/datasets/coco_karpathy_test_gt.json: "
        "the server answers HTTP 404; "
        f"or put a copy of your own at {coco}/coco_karpathy_test_gt.json"
    )
    assert (
        lines[5] == "images you must fetch yourself: images/train2014, images/val2014; the folder must look like this"
    )
    assert lines[6:] == known_datasets.tree(known_datasets.find("coco"), coco)


def test_get_downloads_once_and_remembers_the_folder(blip: Blip, coco: Path, host: Host) -> None:  # noqa: F811
    assert blip("datasets", "get", "coco", "--to", coco, "--only", "val,test", "-q").code == 0
    assert host.requested == ["datasets/coco_karpathy_val.json", "datasets/coco_karpathy_test.json"]
    again = blip("datasets", "get", "coco", "--only", "test", "-q")
    assert (again.code, again.out, again.err) == (0, f"{coco}/coco_karpathy_test.json\n", "")
    assert len(host.requested) == 2 and known_datasets.resolve("coco", "test")[1] == coco / "images"


def test_get_offline_names_url_and_path(blip: Blip, tmp_path: Path) -> None:
    result = blip("datasets", "get", "ccs-filtered", "--to", tmp_path / "c", "--offline")
    assert result.code == 1 and result.out == ""
    line, images = result.err.splitlines()
    assert f"{known_datasets.HOST}/BLIP/datasets/ccs_filtered.json" in line and "--offline is set" in line
    assert f"put a copy of your own at {tmp_path}/c/ccs_filtered.json" in line
    assert images == "images: blip datasets fetch-images ccs-filtered -o DIR"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("get", "coco"), "no folder for 'coco'; give --to DIR"),
        (("get", "coco", "--to", "x", "--only", "tset"), "--only tset: data set 'coco' has no such split or file"),
        (("check", "coco"), "data set 'coco' is not fetched; 'blip datasets get coco --to DIR' fetches it"),
        (("stats", "msrvtt"), "data set 'msrvtt' holds videos; 'blip eval video-retrieval' reads them"),
        (("stats", "laion-filtered"), "lists URLs; 'blip datasets fetch-images laion-filtered -o DIR'"),
        (("stats", "none.json"), "none.json: no such file"),
    ],
)
def test_usage_errors_name_the_fix(blip: Blip, args: tuple[str, ...], reason: str) -> None:
    result = blip("datasets", *args)
    assert result.code == 2 and result.out == "" and reason in result.err and len(result.err.splitlines()) == 1


def test_check_prints_problems_and_a_summary(blip: Blip, table: Path, tmp_path: Path) -> None:
    result = blip("datasets", "check", table)
    assert result.code == 1
    assert result.out.splitlines() == [f"{tmp_path}/gone.png: no such file ({table}:3)", f"{table}:4: no text"]
    assert result.err == "4 rows, 3 images, 3 texts, 2 problems\n"
    (tmp_path / "gone.png").write_bytes(b"x")
    result = blip("datasets", "check", table, "--no-decode", "--no-text", "-q")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_check_takes_columns_and_root(blip: Blip, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(png())
    path = write_json(tmp_path / "d.json", [{"file": "a.png", "alt": "x", "id": i} for i in (1, 1)])
    result = blip(
        "datasets",
        "check",
        path,
        "--root",
        tmp_path / "photos",
        "--image-column",
        "file",
        "--text-column",
        "alt",
        "--key-column",
        "id",
    )
    assert result.out == f"{path}:2: duplicate key '1'\n"


def test_check_of_a_data_set_looks_in_its_image_folder(blip: Blip, coco: Path) -> None:
    blip("datasets", "get", "coco", "--to", coco, "--only", "val")
    result = blip("datasets", "check", "coco@val")
    photo = f"{coco}/images/val2014/COCO_val2014_000000000042.jpg"
    assert result.out == f"{photo}: no such file ({coco}/coco_karpathy_val.json:1)\n"
    (coco / "images/val2014").mkdir(parents=True)
    Path(photo).write_bytes(png())
    assert blip("datasets", "check", f"coco@val:{coco}").code == 0


def test_own_tables_and_data_sets_may_be_mixed(blip: Blip, coco: Path, table: Path) -> None:
    blip("datasets", "get", "coco", "--to", coco, "--only", "val")
    result = blip("datasets", "check", table, "coco@val", "--no-text")
    assert [line.split(": ")[0].rsplit("/", 1)[-1] for line in result.out.splitlines()] == [
        "gone.png",
        "COCO_val2014_000000000042.jpg",
    ]
    assert result.err == "5 rows, 4 images, 5 texts, 2 problems\n"


def test_rows_of_nocaps_need_no_text(blip: Blip, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/1.png").write_bytes(png())
    write_json(tmp_path / "nocaps_val.json", [{"image": "val/1.png", "img_id": 1}])
    assert blip("datasets", "check", f"nocaps@val:{tmp_path}").code == 0


def test_stats_are_a_table_or_a_record(blip: Blip, table: Path) -> None:
    assert blip("datasets", "stats", table).out == (
        "rows\t4\nbad_rows\t0\nimages\t3\ntexts\t3\ntexts_per_image\t1\n"
        "words_per_text\tmean 1.667, median 2, p95 2, max 2\nvocabulary\t5\nlongest\ta cat\n"
        "width\tmin 3, median 3, max 3\nheight\tmin 2, median 2, max 2\nsampled_images\t3\nwithout_size\t1\n"
    )
    record = json.loads(blip("datasets", "stats", table, "--json", "--sample", "0").out)
    assert record["words_per_text"]["mean"] == 1.66667 and "width" not in record


def test_answers_make_a_json_list(blip: Blip, tmp_path: Path) -> None:
    given: list[Any] = [["yes"] * 10] * 9 + [["no"] * 10] * 8
    rows = [{"image": "a.png", "question": "q", "answer": answer} for answer in given]
    path = write_json(tmp_path / "vqa_train.json", rows)
    assert blip("datasets", "answers", path).out == '["yes"]\n'
    result = blip("datasets", "answers", f"vqa@train:{tmp_path}", "--min-count", "8", "-o", tmp_path / "list.json")
    assert (result.code, result.out, result.err) == (0, "", "2 answers\n")
    assert json.loads((tmp_path / "list.json").read_text()) == ["yes", "no"]
    assert blip("datasets", "answers", path, "-o", tmp_path / "list.json").code == 2
    assert "--min-count 1?" in blip("datasets", "answers", path, "--min-count", "20").err


def test_convert_prints_what_it_wrote(blip: Blip, table: Path, tmp_path: Path) -> None:
    result = blip("datasets", "convert", table, "-o", tmp_path / "o.jsonl")
    assert (result.code, result.out, result.err) == (
        0,
        f"{tmp_path}/o.jsonl\n",
        "4 rows written, 0 invalid rows left out\n",
    )
    result = blip("datasets", "convert", table, "-o", tmp_path / "s.tar")
    assert result.code == 1 and f"{table}:3: {tmp_path}/gone.png: no such file" in result.err
    result = blip("datasets", "convert", table, "-o", tmp_path / "s.tar", "--skip-bad", "--shard-size", "2")
    assert result.code == 1 and result.out == f"{tmp_path}/s-000000.tar\n{tmp_path}/s-000001.tar\n"
    assert result.err.splitlines()[-1] == "3 rows written, 1 invalid row left out"
    assert blip("datasets", "convert", table, "-o", tmp_path / "s.tar").code == 2


def test_convert_to_a_folder_names_the_columns_left_out(blip: Blip, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", tar_sample("a", caption="x", split="dev"))
    result = blip("datasets", "convert", shard, "-o", tmp_path / "o")
    assert result.err.startswith("columns left out, which a folder cannot store: split\n")


def test_fetch_images_names_the_shards(blip: Blip, uvx: Path, tmp_path: Path) -> None:  # noqa: F811
    rows = [{"url": f"http://a.example/{n}.jpg", "caption": n} for n in ("1", "2", "gone")] + [{"caption": "no"}]
    write_json(tmp_path / "ccs_filtered.json", rows)
    known_datasets.remember("ccs-filtered", tmp_path)
    result = blip("datasets", "fetch-images", "ccs-filtered", "-o", tmp_path / "o", "--processes", "1")
    assert result.code == 1 and result.out == f"{tmp_path}/o/00000.tar\n"
    lines = result.err.splitlines()
    assert lines[0].startswith("3 URLs, 1 row without; uvx img2dataset --url_list=")
    assert lines[1:] == [
        "downloading",
        "1 failed: HTTP Error 404: Not Found",
        f"2 images done, 1 failed; use them with --data '{tmp_path}/o/00000.tar'",
    ]
    assert blip("datasets", "check", result.out.strip()).err == "2 rows, 2 images, 2 texts, 0 problems\n"


def test_fetch_images_without_its_program_or_offline(
    blip: Blip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_json(tmp_path / "a.json", [{"url": "http://a.example/1.jpg"}])
    monkeypatch.setenv("PATH", str(tmp_path))
    result = blip("datasets", "fetch-images", path, "-o", tmp_path / "o")
    assert result.code == 4 and result.err == (
        "blip: error: uvx: not installed; install uv (https://docs.astral.sh/uv/), or use --runner 'pipx run'\n"
    )
    assert blip("datasets", "fetch-images", path, "-o", tmp_path / "o", "--offline").code == 3
