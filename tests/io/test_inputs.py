"""Inputs of the command line: order, keys, lists, shards, tables, videos, URLs."""

from __future__ import annotations

import http.server
import io
import json
import os
import pickle
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from blip.io.byte_sources import Url
from blip.io.columns import Columns
from blip.io.inputs import find_inputs
from blip.io.paths import expand_braces, glob_allows
from blip.io.samples import ImageRef, Sample
from blip_lite.errors import OfflineError, UnreadableImage, UsageError


def png(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def keys(*args: str, **how: object) -> list[str]:
    return [sample.key for sample in find_inputs(args, **how)]  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with hidden names, a text file, and names on both sides of '/' in byte order."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a/z.PNG", "a.jpg", "a/é.webp", ".h/x.jpg", ".x.jpg", "notes.txt", "a/deep/q.tif"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    return tmp_path / "photos"


def test_folders_are_walked_in_byte_order_without_hidden_names(photos: Path) -> None:
    expected = ["photos/a.jpg", "photos/a/deep/q.tif", "photos/a/z.PNG", "photos/a/é.webp", "photos/b.jpg"]
    assert keys("photos/") == keys("photos") == expected
    assert keys(str(photos)) == [f"{photos}{key[6:]}" for key in expected]
    assert keys("photos", recursive=False) == ["photos/a.jpg", "photos/b.jpg"]
    assert keys("photos", hidden=True)[:2] == ["photos/.h/x.jpg", "photos/.x.jpg"]


def test_extensions_and_globs_select_files(photos: Path) -> None:
    assert keys("photos", exts=["png", ".TIF"]) == ["photos/a/deep/q.tif", "photos/a/z.PNG"]
    assert keys("photos", globs=["*.jpg"]) == ["photos/a.jpg", "photos/b.jpg"]
    assert keys("photos", globs=["!a/"]) == ["photos/a.jpg", "photos/b.jpg"]
    assert keys("photos", globs=["a/**", "!deep"]) == ["photos/a/z.PNG", "photos/a/é.webp"]


def test_glob_patterns() -> None:
    assert glob_allows("x/y/cat1.jpg", ["cat[0-9].*"]) and not glob_allows("x/cats.jpg", ["cat[0-9].*"])
    assert glob_allows("x/y/c.jpg", ["x/**/c.jpg"]) and glob_allows("x/c.jpg", ["x/**/c.jpg"])
    assert not glob_allows("x/y/c.jpg", ["x/*.jpg"]) and glob_allows("c.jpg", ["?.jpg"])


def test_named_files_keep_their_key_and_order(photos: Path) -> None:
    names = ["photos/b.jpg", "./photos/a.jpg", "photos/notes.txt", "missing.jpg"]
    inputs = find_inputs(names)
    assert [sample.key for sample in inputs] == names
    assert inputs[0].read().size == (4, 3)
    with pytest.raises(UnreadableImage, match=r"^missing.jpg: no such file$"):
        inputs[3].read()


def test_nothing_is_opened_while_listing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("builtins.open", "io.open", "os.open"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("opened"))
    assert len(keys("photos", "photos/notes.txt")) == 6


def test_duplicates_are_numbered_with_one_warning(photos: Path) -> None:
    with pytest.warns(UserWarning, match=r"photos/a.jpg: listed more than once") as warned:
        assert keys("photos/a.jpg", "photos/a.jpg", "photos/a.jpg") == [
            "photos/a.jpg",
            "photos/a.jpg (2)",
            "photos/a.jpg (3)",
        ]
    assert len(warned) == 1


def test_limit_applies_before_shard_and_shards_cover_all_inputs(photos: Path) -> None:
    whole = keys("photos", limit=3)
    assert whole == keys("photos")[:3]
    assert [keys("photos", limit=3, shard=(i, 2)) for i in (0, 1)] == [whole[0::2], whole[1::2]]
    for wrong in ({"shard": (2, 2)}, {"limit": 0}):
        with pytest.raises(UsageError, match="must be"):
            keys("photos", **wrong)


def test_no_inputs_is_an_error_that_names_the_folder(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"no inputs found in photos; looked for \.gif"):
        keys("photos", exts=["gif"])
    with pytest.raises(UsageError, match="no inputs given"):
        keys()
    tar(photos / "a" / "0.tar", {})
    with pytest.raises(UsageError, match=r"name the shards themselves: photos/a/\*.tar"):
        keys("photos/a/", exts=["gif"])


def test_lists_come_from_standard_input_and_files(photos: Path) -> None:
    odd = "photos/new\nline.jpg"
    Path(odd).write_bytes(png())
    assert keys("-", stdin=io.BytesIO(b"photos/b.jpg\r\n\nphotos/a\n"))[0] == "photos/b.jpg"
    assert keys("-", stdin=io.BytesIO(f"{odd}\0photos/a.jpg\0".encode()), null=True) == [odd, "photos/a.jpg"]
    names = "photos/b.jpg\r\nphotos/a.jpg\r\n"
    for encoding in ("utf-8-sig", "utf-16"):  # byte order marks of editors and shells on Windows
        assert keys("-", stdin=io.BytesIO(names.encode(encoding))) == ["photos/b.jpg", "photos/a.jpg"]
    for data, kind in ((png(), "an image (PNG)"), (b"MZ\0\0\n\n", "binary data")):
        with pytest.raises(UsageError, match=f"standard input: not a list of names but {re.escape(kind)}"):
            keys("-", stdin=io.BytesIO(data))
    Path("list").write_text("photos/a.jpg\nphotos/{1..2}.jpg\n")
    assert keys("photos/b.jpg", from_file="list") == ["photos/b.jpg", "photos/a.jpg", "photos/{1..2}.jpg"]
    with pytest.raises(UsageError, match="--from-file none: cannot be read"):
        keys(from_file="none")


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_in_other_encodings_have_valid_keys(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(png())
    (sample,) = find_inputs([tmp_path])
    assert sample.key.endswith("/\ufffd.jpg") and sample.read().size == (4, 3)


def test_links_are_followed_but_loops_are_not(photos: Path) -> None:
    (photos / "a" / "loop").symlink_to(photos)
    (photos / "c").symlink_to(photos / "a" / "deep")
    assert [key for key in keys("photos") if "loop" in key or "/c/" in key] == ["photos/c/q.tif"]


def test_pipes_fail_and_broken_links_do_not_hide_other_files(photos: Path) -> None:
    before = [sample.key for sample in find_inputs([photos])]
    (photos / "loop.d").symlink_to("loop.d")
    (photos / "other").symlink_to("loop.d")
    os.mkfifo(photos / "pipe.jpg")
    *others, pipe = find_inputs([photos])
    assert [sample.key for sample in others] == before
    with pytest.raises(UnreadableImage, match=r"pipe.jpg: not a file \(a pipe, socket or device\)"):
        pipe.read()


def test_braces_expand() -> None:
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{x,y}{1..2}") == ["x1", "x2", "y1", "y2"]
    assert expand_braces("{2..0}") == ["2", "1", "0"] and expand_braces("{..}") == ["{..}"]


def test_shard_members_are_read_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sample = {"000.png": png(), "000.txt": b"a cat\n", "000.json": b'{"url": "http://h/x", "sha": 1}'}
    tar(tmp_path / "cc-0.tar", sample)
    tar(tmp_path / "cc-1.tar", {"./d/7.png": png("blue"), "._8.png": b"", "9.cls": b"1"})
    inputs = find_inputs(["cc-{0..1}.tar"])
    assert [sample.key for sample in inputs] == ["cc-0.tar/000", "cc-1.tar/d/7"]
    assert (inputs[0].texts, inputs[0].fields) == (("a cat",), {"url": "http://h/x"})
    assert (inputs[1].texts, inputs[1].fields) == ((), {})
    again = pickle.loads(pickle.dumps(inputs[1]))
    assert again.read().getpixel((0, 0)) == (0, 0, 255) and again.path is None


def test_truncated_shards_keep_their_good_members(tmp_path: Path) -> None:
    path = tar(tmp_path / "s.tar", {"0.png": png(), "1.png": bytes(5000)})
    path.write_bytes(path.read_bytes()[:3000])
    first, second, third = find_inputs([path])
    assert first.read().size == (4, 3)
    for sample, reason in ((second, "truncated shard"), (third, "not a readable tar file")):
        with pytest.raises(UnreadableImage, match=rf"^{path}.*: {reason}"):
            sample.read()


def test_missing_and_compressed_shards_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "z.tar.gz").write_bytes(b"\x1f\x8b" + bytes(20))
    for name, reason in (("none.tar", "no such file"), ("z.tar.gz", "decompress it first")):
        with pytest.raises(UsageError, match=reason):
            keys(str(tmp_path / name))


def write_rows(folder: Path, name: str) -> Path:
    rows = [{"key": "k1", "image": "a.png", "texts": ["x", "y"]}, {"image": "b.png", "question": "how, many?"}]
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    elif name.endswith(".csv"):
        path.write_text('\ufeffkey,image,texts,question\nk1,a.png,"[""x"",""y""]",\n,b.png,,"how, many?"\n', "utf-8")
    else:
        path.write_text('key\timage\ttexts\tquestion\nk1\ta.png\t["x","y"]\t\n\tb.png\t\thow, many?\n')
    return path


@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.csv", "m.tsv"])
def test_tables_have_keys_paths_and_columns(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    first, second = find_inputs([write_rows(tmp_path, name)])
    assert (first.key, first.texts, first.fields) == ("k1", ("x", "y"), {}) and first.read().size == (4, 3)
    assert (second.key, second.fields) == ("b.png", {"question": "how, many?"})
    assert find_inputs([tmp_path / name], columns=Columns(roots=(Path("/r"),)))[1].path == Path("/r/b.png")


def test_parquet_tables_hold_paths_or_bytes(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"image": ["a.png"], "text": ["t"]}), tmp_path / "p.parquet")
    (sample,) = find_inputs([tmp_path / "p.parquet"])
    assert sample.path == tmp_path / "a.png" and sample.texts == ("t",)
    cells = [{"bytes": png(), "path": "x"}, {"bytes": png("blue"), "path": "y"}]
    parquet.write_table(arrow.table({"image": cells, "key": ["r", "b"]}), tmp_path / "q.parquet", row_group_size=1)
    red, blue = find_inputs([tmp_path / "q.parquet"])
    assert (red.key, blue.read().getpixel((0, 0))) == ("r", (0, 0, 255))


def test_bad_rows_are_inputs_that_fail(tmp_path: Path) -> None:
    lines = ['{"image": "a.png"}', '{"image": ', "[1]", '{"text": "x"}', '{"image": "https://h/a.jpg"}']
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    inputs = find_inputs([tmp_path / "m.jsonl"])
    reasons = (
        "not a JSON object",
        "not a JSON object but list",
        "no image path in column 'image'",
        "is a URL; download it first",
    )
    for sample, reason in zip(inputs[1:], reasons, strict=True):
        with pytest.raises(UnreadableImage, match=reason):
            sample.read()
    assert inputs[1].key == "m.jsonl:2"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("m.csv", "picture of,text\n", "no column 'image'; columns are picture of, text"),
        ("m.json", "{}", "must be a JSON list"),
        ("m.json", "[", "m.json:1: not JSON"),
        ("m.parquet", "x", "not a readable Parquet file"),
    ],
)
def test_invalid_tables_are_usage_errors(name: str, text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=reason):
        keys(str(tmp_path / name))


def two_frames(path: Path, *, key: str) -> list[Sample]:
    return [Sample(key=f"{key}#t={time}", images=(ImageRef(path),)) for time in ("0.500", "1.500")]


def test_named_videos_are_expanded_to_frames(photos: Path) -> None:
    (photos / "V.MP4").touch()
    assert keys("photos/V.MP4", "photos/a.jpg", video=two_frames) == [
        "photos/V.MP4#t=0.500",
        "photos/V.MP4#t=1.500",
        "photos/a.jpg",
    ]
    assert keys("-", stdin=io.BytesIO(b"photos/V.MP4"), video=two_frames, limit=1) == ["photos/V.MP4#t=0.500"]
    with pytest.raises(UsageError, match=r"photos/V.MP4 is a video; only images are supported here"):
        keys("photos/V.MP4")


def test_videos_in_folders_are_found_by_their_extension_only(photos: Path) -> None:
    (photos / "V.MP4").touch()
    assert not [key for key in keys("photos", video=two_frames) if "V.MP4" in key]
    listed = keys("photos", exts=["mp4", "png"], video=two_frames)
    assert listed == ["photos/V.MP4#t=0.500", "photos/V.MP4#t=1.500", "photos/a/z.PNG"]


def test_videos_in_tables_keep_the_key_and_columns_of_their_row(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"key": "k", "image": "v.webm", "text": "a cat"}\n')
    inputs = find_inputs([tmp_path / "m.jsonl"], video=two_frames)
    assert [sample.key for sample in inputs] == ["k#t=0.500", "k#t=1.500"]
    assert inputs[1].texts == ("a cat",) and inputs[1].path == tmp_path / "v.webm"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path != "/none" else 404)
        self.end_headers()
        self.wfile.write(png())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_urls_are_fetched_when_read(server: str) -> None:
    good, missing = find_inputs([f"{server}/a.png", f"{server}/none"])
    assert good.key == f"{server}/a.png" and good.read().size == (4, 3)
    with pytest.raises(UnreadableImage, match="HTTP 404"):
        missing.read()
    with pytest.raises(UnreadableImage, match="download of more than"):
        Url(f"{server}/a.png", max_bytes=10).read()
    with pytest.raises(UnreadableImage, match="download failed"):
        Url("http://127.0.0.1:9/a.png", timeout=2).read()


def test_urls_are_rejected_offline(server: str) -> None:
    with pytest.raises(OfflineError, match="--offline is set"):
        keys(f"{server}/a.png", offline=True)


def test_a_folder_of_videos_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "clip.MP4").touch()
    with pytest.raises(UsageError, match="for its videos give --ext mp4"):
        find_inputs([tmp_path], video=lambda path, key: iter(()))
