"""Lists of addresses for img2dataset, the call of it, and its shards; the program itself is a stand-in."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest

from blip.data import img2dataset
from blip_lite.errors import EnvironmentProblem, UsageError
from tests.data.test_sources import png, tar_sample, write_json, write_tar

# Stands in for uvx: writes a shard of all addresses without 'gone' in them, and a report, as img2dataset does.
STAND_IN = f"""#!{sys.executable}
import csv, io, json, sys, tarfile
flags = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[2:])
assert sys.argv[1] == "img2dataset" and flags["output_format"] == "webdataset"
print("downloading")
rows = list(csv.DictReader(open(flags["url_list"], encoding="utf-8")))
good = [row for row in rows if "gone" not in row["url"]]
folder = flags["output_folder"]
with tarfile.open(folder + "/00000.tar", "w") as tar:
    for i, row in enumerate(good):
        texts = {{"caption": row["caption"], "url": row["url"]}}
        for end, data in (("png", {png()!r}), ("json", json.dumps(texts).encode()), ("txt", row["caption"].encode())):
            info = tarfile.TarInfo(f"{{i:09d}}.{{end}}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
status = {{"success": len(good), "HTTP Error 404: Not Found": len(rows) - len(good)}}
json.dump({{"count": len(rows), "status_dict": status}}, open(folder + "/00000_stats.json", "w"))
json.dump(flags, open(folder + "/flags.txt", "w"))
sys.exit(3 if "broken" in flags["url_list"] else 0)
"""


@pytest.fixture
def uvx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for uvx, first in PATH."""
    path = tmp_path / "bin/uvx"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


ROWS = [
    {"url": "http://a.example/1.jpg", "caption": 'a, "b"\nc'},
    {"url": "http://a.example/2,.jpg", "caption": ["first", "second"]},
    {"url": "ftp://a.example/3.jpg", "caption": "x"},
    {"caption": "y"},
]


def listed(path: Path) -> list[tuple[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["url"], row["caption"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_urls_and_texts_are_listed_on_separate_lines(tmp_path: Path, name: str) -> None:
    text = json.dumps(ROWS) if name.endswith("json") else "\n".join(map(json.dumps, ROWS))
    (tmp_path / name).write_text(text)
    url_list = img2dataset.write_list([str(tmp_path / name)], tmp_path / "out")
    assert (url_list.rows, url_list.bad, url_list.has_texts, url_list.path) == (2, 2, True, tmp_path / "out/urls.csv")
    assert listed(url_list.path) == [("http://a.example/1.jpg", 'a, "b" c'), ("http://a.example/2,.jpg", "first")]


def test_tables_and_text_files_are_lists(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.csv").write_text("URL,TEXT\nhttp://a/1,x\n")
    parquet.write_table(arrow.table({"URL": ["http://a/2"], "TEXT": ["y"]}), tmp_path / "a.parquet")
    names = [str(tmp_path / "a.csv"), str(tmp_path / "a.parquet")]
    assert listed(img2dataset.write_list(names, tmp_path, "URL", "TEXT").path) == [
        ("http://a/1", "x"),
        ("http://a/2", "y"),
    ]
    (tmp_path / "a.txt").write_text("http://a/3\n\nhttp://a/4\n")
    url_list = img2dataset.write_list([str(tmp_path / "a.txt")], tmp_path)
    assert listed(url_list.path) == [("http://a/3", ""), ("http://a/4", "")] and not url_list.has_texts


def test_a_list_without_urls_is_rejected(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"image": "a.png"}])
    with pytest.raises(UsageError, match=r"a\.json: no URLs in column 'url'"):
        img2dataset.write_list([str(path)], tmp_path / "out")
    assert not (tmp_path / "out/urls.csv").exists()
    with pytest.raises(UsageError, match=r"a\.tar: must be \.txt or one of \.jsonl"):
        img2dataset.write_list(["a.tar"], tmp_path / "out")
    with pytest.raises(UsageError, match=r"none\.txt: cannot be read"):
        img2dataset.write_list([str(tmp_path / "none.txt")], tmp_path / "out")


def test_the_command_keeps_opt_outs_and_requests_shards(tmp_path: Path, uvx: Path) -> None:
    url_list = img2dataset.UrlList(path=tmp_path / "o/urls.csv", rows=1, has_texts=True, bad=0)
    call = img2dataset.command(url_list, image_size=224, processes=2)
    assert call == [
        "uvx",
        "img2dataset",
        f"--url_list={tmp_path}/o/urls.csv",
        "--input_format=csv",
        "--url_col=url",
        "--caption_col=caption",
        "--output_format=webdataset",
        f"--output_folder={tmp_path}/o",
        "--image_size=224",
        "--resize_mode=keep_ratio",
        "--resize_only_if_bigger=True",
        "--processes_count=2",
    ]
    assert not any("disallowed_header_directives" in word for word in call)
    assert "--caption_col=caption" not in img2dataset.command(
        img2dataset.UrlList(path=tmp_path, rows=1, has_texts=False, bad=0)
    )


def test_a_missing_runner_names_the_program_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    url_list = img2dataset.UrlList(path=tmp_path / "urls.csv", rows=1, has_texts=True, bad=0)
    with pytest.raises(EnvironmentProblem, match=r"uvx: not installed; install uv .*, or use --runner 'pipx run'"):
        img2dataset.command(url_list)
    with pytest.raises(EnvironmentProblem, match="pipx run: not installed"):
        img2dataset.command(url_list, runner="pipx run")


def test_written_shards_are_counted(tmp_path: Path, uvx: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"url": f"http://a/{name}.jpg", "caption": name} for name in ("1", "gone", "2")]
    url_list = img2dataset.write_list([str(write_json(tmp_path / "a.json", rows))], tmp_path / "o")
    img2dataset.run(img2dataset.command(url_list))
    assert capfd.readouterr() == ("", "downloading\n")
    shards = img2dataset.read_shards(tmp_path / "o")
    assert (shards.spec, shards.images, shards.reasons) == (
        f"{tmp_path}/o/00000.tar",
        2,
        {"HTTP Error 404: Not Found": 1},
    )


def test_a_failing_program_is_an_environment_problem(tmp_path: Path, uvx: Path) -> None:
    url_list = img2dataset.write_list([str(write_json(tmp_path / "a.json", ROWS))], tmp_path / "broken")
    with pytest.raises(EnvironmentProblem, match="img2dataset ended with 3; its messages are above"):
        img2dataset.run(img2dataset.command(url_list))
    with pytest.raises(EnvironmentProblem, match="img2dataset wrote no shards"):
        img2dataset.read_shards(tmp_path)


def test_specs_name_all_shards_and_only_those(tmp_path: Path) -> None:
    for i in (0, 1, 2):
        write_tar(tmp_path / f"0000{i}.tar", tar_sample("a", caption="x"))
    (tmp_path / "00000_stats.json").write_text("[]")
    assert img2dataset.read_shards(tmp_path) == img2dataset.Shards(
        spec=f"{tmp_path}/{{00000..00002}}.tar", images=3, reasons={}
    )
    (tmp_path / "00001.tar").unlink()
    assert img2dataset.read_shards(tmp_path).spec == f"{tmp_path}/{{00000,00002}}.tar"
