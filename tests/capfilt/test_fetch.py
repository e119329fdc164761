"""Tables of URLs, downloaded by a stand-in for img2dataset that writes what that program writes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from blip.data.check import Check
from tests.capfilt.test_run import column, run, scores
from tests.data.test_sources import png, write_tar

# Stands in for uvx: a shard of all addresses without 'gone' in them, and metadata of all, as img2dataset 1.47 does.
STAND_IN = f"""#!{sys.executable}
import csv, hashlib, io, json, sys, tarfile
import pyarrow, pyarrow.parquet
flags = dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[2:])
rows, metadata = list(csv.DictReader(open(flags["url_list"], encoding="utf-8"))), []
extra = json.loads(flags.get("save_additional_columns", "[]"))
folder, image = flags["output_folder"], {png()!r}
open(folder + "/calls", "a").write("x")
with tarfile.open(folder + "/00000.tar", "w") as tar:
    for i, row in enumerate(rows):
        error = "HTTP Error 404: Not Found" if "gone" in row["url"] else None
        found = {{"url": row["url"], "caption": row["caption"], "key": f"{{i:09d}}"}}
        found |= {{name: row[name] for name in extra}}
        found |= {{"status": "failed_to_download" if error else "success", "error_message": error}}
        found |= {{"width": 3, "height": 2, "original_width": 6, "original_height": 4, "exif": "{{}}"}}
        found |= {{"sha256": None if error else hashlib.sha256(image).hexdigest()}}
        metadata.append(found)
        texts = (("png", image), ("json", json.dumps(found, indent=4).encode()), ("txt", row["caption"].encode()))
        for end, data in () if error else texts:
            info = tarfile.TarInfo(f"{{i:09d}}.{{end}}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(metadata), folder + "/00000.parquet")
json.dump({{"count": len(rows), "status_dict": {{"success": len(rows)}}}}, open(folder + "/00000_stats.json", "w"))
"""


@pytest.fixture
def uvx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bin/uvx"
    path.parent.mkdir()
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("uvx")
@pytest.mark.integration
@pytest.mark.parametrize("names", [("url", "caption"), ("image", "alt")])
def test_images_of_urls_are_downloaded_once(tmp_path: Path, names: tuple[str, str]) -> None:
    image, text = names
    rows = [
        {image: "https://a.example/1.jpg", text: "one", "clip": 0.3, "by_hand": True},
        {image: "https://a.example/gone.jpg", text: "two", "clip": 0.2, "by_hand": False},
        {image: "https://a.example/3.jpg", text: "three", "clip": 0.1, "by_hand": False},
    ]
    (tmp_path / "urls.json").write_text(json.dumps(rows))
    flags: dict[str, Any] = {} if image == "url" else {"image_column": image, "text_column": text}
    flags |= {"copy_columns": ["clip"], "human_column": "by_hand"}
    for _ in range(2):
        summary = run(tmp_path / "urls.json", tmp_path / "out", fetch=True, **flags)
    result = scores(tmp_path / "out")
    assert column(result, "kind") == ["human", "web", "synthetic", None]
    assert column(result, "url") == [f"https://a.example/{n}.jpg" for n in ("1", "3", "3", "gone")]
    assert column(result, "text")[:2] == ["one", "three"] and column(result, "error")[3] == "HTTP Error 404: Not Found"
    assert [float(value) for value in column(result, "clip")] == [0.3, 0.1, 0.1, 0.2]
    assert summary.counts.errors == {"HTTP Error N: Not Found": 1} and summary.written == 0
    (folder,) = (path for path in (tmp_path / "out/fetched").iterdir() if path.is_dir())
    assert (folder / "calls").read_text() == "x"


def test_metadata_of_img2dataset_have_the_reason_of_failed_downloads(tmp_path: Path) -> None:
    rows = [
        {"status": "failed_to_download", "error_message": "timed out"},
        {"status": "failed_to_download"},
        {"status": "success", "error_message": "none"},
    ]
    rows = [{"url": f"https://a.example/{i}.jpg", "caption": "x"} | row for i, row in enumerate(rows)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(tmp_path / "t.jsonl", tmp_path / "out")
    errors = column(scores(tmp_path / "out"), "error")
    assert errors == ["timed out", "failed to download", "the image is a URL; --fetch downloads it"]


FOLDER = [  # what img2dataset 1.47 writes for three URLs, the second of which fails
    {"key": "0000000", "url": "https://a.example/0.jpg", "caption": "Café, the first", "n": 5, "status": "success"},
    {"key": "0000001", "url": "https://a.example/1.jpg", "caption": "gone", "n": 6, "status": "failed_to_download"},
    {"key": "0000002", "url": "https://a.example/2.jpg", "caption": "third", "n": 7, "status": "success"},
]


def write_formats(folder: Path) -> None:
    """Write the output of img2dataset in its formats webdataset, parquet and files."""
    rows = [row | {"error_message": None if row["status"] == "success" else "HTTP Error 404"} for row in FOLDER]
    good = {row["key"]: row for row in rows if row["status"] == "success"}
    for name in ("webdataset", "parquet", "files/00000"):
        (folder / name).mkdir(parents=True)
    members: list[tuple[str, bytes]] = []
    for i, (key, row) in enumerate(good.items()):
        texts = (row["caption"].encode(), json.dumps(row, indent=4).encode())
        members += [(f"{key}.{end}", data) for end, data in zip(("jpg", "txt", "json"), (png(i), *texts), strict=True)]
    write_tar(folder / "webdataset/00000.tar", members)
    for name, data in members:
        (folder / "files/00000" / name).write_bytes(data)
    for name in ("webdataset", "files"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name / "00000.parquet")
    images = [png(i) if row["key"] in good else None for i, row in enumerate(rows)]
    table = pyarrow.Table.from_pylist([row | {"jpg": image} for row, image in zip(rows, images, strict=True)])
    pyarrow.parquet.write_table(table, folder / "parquet/00000.parquet")


def test_every_format_of_img2dataset_is_read_without_flags(tmp_path: Path) -> None:
    write_formats(tmp_path)
    for name in ("webdataset/00000.tar", "parquet/00000.parquet", "files"):
        out = tmp_path / f"out-{name.partition('/')[0]}"
        summary = run(tmp_path / name, out, captions=0, copy_columns=["n"])
        rows = scores(out)
        good = [i for i, error in enumerate(column(rows, "error")) if error is None]
        assert [column(rows, "text")[i] for i in good] == ["Café, the first", "third"], name
        assert [column(rows, "url")[i] for i in good] == ["https://a.example/0.jpg", "https://a.example/2.jpg"], name
        assert [column(rows, "n")[i] for i in good] == [5, 7], name
        assert ["0000000" in column(rows, "key")[good[0]], "0000002" in column(rows, "key")[good[1]]] == [True, True]
        assert summary.counts.errors == ({"HTTP Error N": 1} if name.startswith("parquet") else {}), name
        if name.startswith("parquet"):
            assert (column(rows, "url")[1], column(rows, "n")[1]) == ("https://a.example/1.jpg", 6)
    lines = list(Check(names=[str(tmp_path / "parquet/00000.parquet")]))
    assert lines == [f"https://a.example/1.jpg: HTTP Error 404 ({tmp_path}/parquet/00000.parquet:2)"]


@pytest.mark.usefixtures("uvx")
def test_rows_without_a_url_are_failures_of_a_download(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"url": "https://a.example/1.jpg", "caption": "one"}, {"url": "", "caption": "two"}]
    (tmp_path / "urls.jsonl").write_text("\n".join(map(json.dumps, rows)))
    summary = run(tmp_path / "urls.jsonl", tmp_path / "out", fetch=True, captions=0)
    assert summary.counts.errors == {"no URL in column 'url'": 1} and summary.counts.texts == {"web": 1}
