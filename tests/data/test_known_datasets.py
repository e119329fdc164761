"""Known data sets: names resolve to fetched files; errors name the command to run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from blip.data import known_datasets
from blip.data.known_datasets import ENTRIES, File, find, named, obtain, remember, resolve, side_file, split_files, tree
from blip.io import fetch
from blip_lite.errors import ConfigError, UsageError


class Host(ThreadingHTTPServer):
    """Serves `files` by path; `statuses` are the responses for paths, `requested` records the paths."""

    files: dict[str, bytes]
    statuses: dict[str, int]
    requested: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        path = self.path.removeprefix("/")
        self.server.requested.append(path)
        status = self.server.statuses.get(path, 200 if path in self.server.files else 404)
        body = self.server.files.get(path, b"") if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """The host of the annotation files, on this machine."""
    for name in ("BLIP_OFFLINE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Host(("127.0.0.1", 0), Handler) as server:
        server.files, server.statuses, server.requested = {}, {}, []
        monkeypatch.setattr(known_datasets, "HOST", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLIP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write_files(folder: Path, *names: str, rows: Any = ({"image": "a.jpg"},)) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(json.dumps(list(rows)))
    return folder


def test_every_file_of_the_original_has_its_url() -> None:
    # data/*.py and README.md of the original; LAVIS for scoring VQA without a server
    names = {file.name for entry in ENTRIES for file in entry.files}
    assert {
        "coco_karpathy_train.json",
        "coco_karpathy_val.json",
        "coco_karpathy_test.json",
        "coco_karpathy_val_gt.json",
        "coco_karpathy_test_gt.json",
        "flickr30k_train.json",
        "flickr30k_val.json",
        "flickr30k_test.json",
        "vqa_train.json",
        "vqa_val.json",
        "vqa_test.json",
        "vg_qa.json",
        "answer_list.json",
        "nlvr_train.json",
        "nlvr_dev.json",
        "nlvr_test.json",
        "nocaps_val.json",
        "nocaps_test.json",
        "msrvtt_test.jsonl",
        "vg_caption.json",
        "ccs_filtered.json",
        "ccs_synthetic_filtered.json",
        "ccs_synthetic_filtered_large.json",
        "laion_filtered.json",
        "laion_synthetic_filtered.json",
        "laion_synthetic_filtered_large.json",
        "vqa_val_eval.json",
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
    } == names
    assert find("coco").files[0].url == (
        "https://storage.googleapis.com/sfr-vision-language-research/datasets/coco_karpathy_train.json"
    )
    assert find("laion-synthetic-large").files[0].url == (
        "https://storage.googleapis.com/sfr-vision-language-research/BLIP/datasets/laion_synthetic_filtered_large.json"
    )


def test_names_and_files_are_unique_and_every_set_has_a_split() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry.splits and len({f.name for f in entry.files}) == len(entry.files) for entry in ENTRIES)


@pytest.mark.parametrize("spec", ["photos/", "a.json", "./coco", "/data/coco", "s-{00..05}.tar", Path("coco/x")])
def test_paths_pass_unchanged(spec: str | Path) -> None:
    assert named(spec) is None
    assert resolve(spec, "test") == ([str(spec)], None)


def test_a_recorded_name_resolves_to_its_files_and_images(tmp_path: Path) -> None:
    folder = write_files(
        tmp_path / "data", "coco_karpathy_train.json", "coco_karpathy_val.json", "coco_karpathy_test.json"
    )
    remember("coco", folder)
    files = [str(folder / f"coco_karpathy_{split}.json") for split in ("train", "val", "test")]
    assert resolve("coco", "test") == (files[2:], folder / "images")
    assert resolve("coco@train+val", "test") == (files[:2], folder / "images")
    assert resolve("coco")[0] == files


def test_the_folder_in_the_argument_has_precedence(tmp_path: Path) -> None:
    remember("flickr30k", tmp_path / "old")
    folder = write_files(tmp_path / "new one", "flickr30k_val.json")
    assert resolve(f"flickr30k:{folder}", "val") == ([str(folder / "flickr30k_val.json")], folder)
    assert resolve(f"flickr30k@val:{folder}", "test")[0] == [str(folder / "flickr30k_val.json")]


def test_recorded_folders_are_absolute_and_separate(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    remember("coco", "a")
    remember("vqa", "b")
    assert json.loads((home / "datasets.json").read_text()) == {"coco": f"{tmp_path}/a", "vqa": f"{tmp_path}/b"}


@pytest.mark.parametrize(
    ("spec", "split", "reason"),
    [
        ("coco", "val", "'coco' is not fetched; 'blip datasets get coco --to DIR' fetches it"),
        ("coco:DIR", "test", r"coco_karpathy_test.json: no such file; 'blip datasets get coco --to .*' fetches it"),
        ("coco:DIR", "dev", "'coco' has no split 'dev'; must be one of train, val, test"),
        ("nocaps:DIR", "train", "'nocaps' has no split 'train'; must be one of val, test"),
        ("ccs-filtered", "train", "lists URLs; 'blip datasets fetch-images ccs-filtered -o DIR'"),
    ],
)
def test_missing_files_name_the_command_to_run(tmp_path: Path, spec: str, split: str, reason: str) -> None:
    write_files(tmp_path, "coco_karpathy_val.json")
    with pytest.raises(UsageError, match=reason):
        resolve(spec.replace("DIR", str(tmp_path)), split)


def test_a_folder_named_like_a_data_set_is_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_files(tmp_path))
    (tmp_path / "vqa").mkdir()
    with pytest.raises(UsageError, match=r"write \./vqa for your folder of that name"):
        resolve("vqa", "val")


def test_side_files_are_returned_or_reported(tmp_path: Path) -> None:
    write_files(tmp_path, "answer_list.json")
    assert side_file(f"vqa:{tmp_path}", "answer_list.json") == tmp_path / "answer_list.json"
    with pytest.raises(UsageError, match=r"has no file answers\.json; 'blip datasets info NAME'"):
        side_file(f"vqa:{tmp_path}", "answers.json")
    with pytest.raises(UsageError, match=r"vqa_val_eval.json: no such file; 'blip datasets get vqa"):
        side_file(f"vqa:{tmp_path}", "vqa_val_eval.json")


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match="unknown data set 'flickr'; did you mean 'flickr30k'"):
        split_files("flickr", "val", "x")


def test_a_damaged_registry_is_reported(home: Path) -> None:
    home.mkdir()
    (home / "datasets.json").write_text("[")
    with pytest.raises(ConfigError, match=r"datasets.json: cannot be read .*; remove it"):
        resolve("coco", "val")


def test_the_tree_shows_files_and_images() -> None:
    assert tree(find("nocaps"), "/d/nocaps/") == [
        "/d/nocaps/",
        "├── nocaps_val.json",
        "├── nocaps_test.json",
        "├── val/   4,500 photos: https://nocaps.org/download lists their URLs",
        "└── test/  10,600 photos: https://nocaps.org/download lists their URLs",
    ]


def test_files_are_fetched_once_with_hash_and_rows(tmp_path: Path, host: Host) -> None:
    file = File(path="datasets/a.json", schema="", split="val", rows=2)
    host.files["datasets/a.json"] = json.dumps([{"image": "1"}, {"image": "2"}]).encode()
    (first,) = obtain([file], tmp_path)
    assert first.problem == "" and first.path.read_bytes() == host.files["datasets/a.json"]
    assert first.note.startswith(f"SHA-256 {fetch.sha256_of(first.path)[:12]}… is recorded beside it")
    assert first.note.endswith(", 2 rows")
    (again,) = obtain([file], tmp_path)
    assert (again.problem, again.note, host.requested) == ("", "", ["datasets/a.json"])


def test_an_unexpected_row_count_is_noted(tmp_path: Path, host: Host) -> None:
    host.files["datasets/a.json"] = b'[{"image": "1"}]'
    (name,) = obtain([File(path="datasets/a.json", schema="", rows=5000)], tmp_path)
    assert name.note.endswith("; 1 rows, but 5,000 were published")


def test_a_refused_file_does_not_stop_the_others(tmp_path: Path, host: Host) -> None:
    host.files |= {f"datasets/{name}.json": b"[]" for name in "abc"}
    host.statuses["datasets/a.json"] = 403
    results = list(obtain([File(path=f"datasets/{name}.json", schema="") for name in "abc"], tmp_path))
    assert [name.path.is_file() for name in results] == [False, True, True]
    assert "the server answers HTTP 403" in results[0].problem and results[1].problem == ""


def test_nothing_is_requested_offline(tmp_path: Path, host: Host) -> None:
    (name,) = obtain([File(path="datasets/a.json", schema="")], tmp_path, offline=True)
    assert "--offline is set" in name.problem and host.requested == []


def test_a_changed_file_is_a_problem(tmp_path: Path, host: Host) -> None:
    host.files["datasets/a.json"] = b"[]"
    file = File(path="datasets/a.json", schema="")
    list(obtain([file], tmp_path))
    (tmp_path / "a.json").write_text("[1]")
    (name,) = obtain([file], tmp_path)
    assert "recorded at the download was" in name.problem


def test_an_unreachable_host_is_retried_for_the_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_datasets, "HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(fetch, "RETRIES", 1)
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    results = list(obtain([File(path=f"{name}.json", schema="") for name in "ab"], tmp_path, offline=False))
    assert ["after 2 attempts" in results[0].problem, "after 1 attempt " in results[1].problem] == [True, True]
