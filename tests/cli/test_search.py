"""`blip search` from the command line."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip.apps.search.index import Index
from blip.apps.search.update import UpdateReport
from blip.cli.search import SearchOptions
from tests.cli.conftest import Blip
from tests.record_schemas import problem

RANDOM = ("-m", "random-tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLIP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def indexed(blip: Blip, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder with four readable photos, indexed."""
    (photos / "c.jpg").unlink()
    assert blip("index", photos, *RANDOM).code == 0
    monkeypatch.chdir(photos)
    return photos


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_text_json_and_tables(blip: Blip, indexed: Path) -> None:
    result = blip("search", "a", "cat")
    assert result.code == 0 and result.err == ""
    hits = rows(result.out)
    assert sorted(path for _, path in hits) == ["a.png", "b.jpg", "sub/d.png", "sub/e ü.png"]
    scores = [float(score) for score, _ in hits]
    assert scores == sorted(scores, reverse=True)
    records = [json.loads(line) for line in blip("search", "a cat", "--json", "-n", "2").out.splitlines()]
    assert [record["rank"] for record in records] == [1, 2] and all(problem(record) is None for record in records)
    assert [record["path"] for record in records] == [path for _, path in hits[:2]]
    assert "itm" not in records[0]
    (record,) = [
        json.loads(line) for line in blip("search", "a cat", "--json", "-n", "1", "--rerank", "2").out.splitlines()
    ]
    assert 0 <= record["itm"] <= 1
    table = rows(blip("search", "a cat", "--format", "tsv").out)
    assert table[0][:3] == ["schema", "rank", "path"] and len(table) == 5


def test_signs_and_weights_reach_the_query(blip: Blip, indexed: Path) -> None:
    cat, dog = (
        dict((p, float(s)) for s, p in rows(blip("search", text, "--rerank", "0").out)) for text in ("cat", "dog")
    )
    both = blip("search", "2:cat", "-", "dog", "-n", "4", "--rerank", "0")
    assert len(rows(both.out)) == 4
    assert all(abs(float(s) - (2 * cat[p] - dog[p])) < 2e-4 for s, p in rows(both.out))
    negative = rows(blip("search", "-", "dog", "--rerank", "0").out)
    assert [path for _, path in negative] == sorted(dog, key=lambda path: dog[path])


def test_a_photo_finds_itself(blip: Blip, indexed: Path) -> None:
    assert blip("search", "./sub/d.png", "-f", "-n", "1").out == "sub/d.png\n"
    result = blip("search", "b.jpg", "-n", "1")
    assert "'b.jpg' is taken as text; write ./b.jpg for the photo" in result.err


def test_paths_for_other_programs(blip: Blip, indexed: Path) -> None:
    (indexed / "a.png").rename(indexed / "-new\nline.png")
    result = blip("search", "cat", "-0")
    assert set(result.out.split("\0")) == {"./-new\nline.png", "b.jpg", "sub/d.png", "sub/e ü.png", ""}
    assert len(blip("search", "cat").out.splitlines()) == 4  # a line a hit
    assert blip("search", "cat", "-f", "--in", "sub").out.count("\n") == 2


def test_control_characters_do_not_reach_a_terminal(blip: Blip, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (indexed / "a.png").rename(indexed / "a\x1b[31m.png")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for flags in (("-f",), ()):
        result = blip("search", "cat", *flags)
        assert "a\\x1b[31m.png" in result.out and "\x1b" not in result.out + result.err


def test_the_index_is_updated_first(blip: Blip, indexed: Path) -> None:
    (indexed / "new.png").write_bytes((indexed / "a.png").read_bytes())
    (indexed / "bad.png").write_bytes(b"bad")
    assert "new.png" not in blip("search", "cat", "--no-update").out
    result = blip("search", "cat")
    assert "new.png" in result.out and "1 copied, 4 unchanged, 1 failed" in result.err
    assert blip("search", "cat").err == ""


def test_the_index_is_searched_while_another_process_writes(blip: Blip, indexed: Path, home: Path) -> None:
    with Index.open(home / "index").writer():
        result = blip("search", "cat")
    assert result.code == 0 and len(rows(result.out)) == 4 and "another process is writing" in result.err


def test_unreadable_files_are_named(blip: Blip, indexed: Path) -> None:
    for number in range(7):
        (indexed / f"x{number}.png").write_bytes(b"no image")
    result = blip("search", "cat")
    assert result.code == 0 and "x4.png: not an image" in result.err and "x5.png" not in result.err
    assert "7 failed" in result.err


def test_terminated_during_the_update(blip: Blip, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def update(index: Index, **_: object) -> UpdateReport:
        os.kill(os.getpid(), signal.SIGTERM)
        return UpdateReport()

    monkeypatch.setattr(Index, "update", update)
    assert blip("search", "cat").code == 143


def test_no_hits_are_not_a_failure(blip: Blip, indexed: Path) -> None:
    result = blip("search", "cat", "--min-score", "99")
    assert (result.code, result.out, result.err) == (0, "", "nothing found\n")


def test_a_contact_sheet(blip: Blip, indexed: Path, tmp_path: Path) -> None:
    result = blip("search", "cat", "-o", tmp_path / "sheet.png")
    assert result.code == 0 and result.out == ""
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 900
    assert blip("search", "cat", "-o", tmp_path / "sheet.png").code == 2
    assert blip("search", "cat", "-o", tmp_path / "sheet.png", "--overwrite").code == 0
    blip("search", "cat", "-o", tmp_path / "hits.jsonl")
    assert len((tmp_path / "hits.jsonl").read_text().splitlines()) == 4


def test_duplicates_are_copies_and_similar_photos_are_not(blip: Blip, indexed: Path) -> None:
    with Image.open("a.png") as image:
        pixels = np.asarray(image).copy()
    pixels[0, 0] += 1
    Image.fromarray(pixels).save("a2.png")
    blip("index", *RANDOM)
    groups = rows(blip("search", "--duplicates", "--no-update").out)
    assert [(group, path) for group, _, path in groups] == [("1", "a.png"), ("1", "a2.png")]
    assert blip("search", "--duplicates", "-f").out == "a.png\na2.png\n"
    similar = rows(blip("search", "--similar", "--min-score", "0.01").out)
    assert len(similar) == 5 and {group for group, _, _ in similar} == {"1"}


def test_duplicates_that_cannot_be_compared_are_an_error(blip: Blip, indexed: Path) -> None:
    (indexed / "copy.png").write_bytes((indexed / "a.png").read_bytes())
    blip("index", *RANDOM)
    (indexed / "copy.png").write_bytes(b"another file now")
    result = blip("search", "--duplicates", "--no-update")
    assert result.code == 1 and result.out == ""
    assert "copy.png: not compared, changed since it was indexed" in result.err


def test_queries_from_a_pipe(blip: Blip, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (indexed / "sub" / "d.png").rename(indexed / "my d.png")
    monkeypatch.setattr("sys.stdin", io.StringIO('cat\n\n"./my d.png"\ndog -\n./none.png\ndog\'s bowl - cat\n'))
    result = blip("search", "-n", "1", "-f")
    assert result.code == 1
    blocks = result.out.split("\n\n")
    assert blocks[0] == blip("search", "cat", "-n", "1", "-f").out.strip() and blocks[1] == "my d.png"
    assert len(result.out.splitlines()) == 3 + 5  # hits, and an empty line after each query
    errors = [line for line in result.err.splitlines() if line.startswith("blip: error: ")]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    empty = blip("search")
    assert empty.code == 2 and empty.out == "" and "query is empty" in empty.err and len(empty.err.splitlines()) == 1
    assert len(errors) == 2 and "ends with a sign" in errors[0] and "./none.png: no such file" in errors[1]


def test_every_piped_query_has_a_record(blip: Blip, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('cat\n"a dog" - cat\n./none.png\n'))
    result = blip("search", "-n", "2", "--json")
    records = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1 and all(problem(record) is None for record in records)
    assert [(r.get("query", r.get("key")), r.get("rank")) for r in records] == [
        *(("cat", 1), ("cat", 2), ('"a dog" - cat', 1), ('"a dog" - cat', 2)),
        ("./none.png", None),
    ]
    assert records[-1]["error"] == {"type": "UnreadableImage", "reason": "no such file"}
    monkeypatch.setattr("sys.stdin", io.StringIO("cat\n"))
    result = blip("search", "--min-score", "99", "--json")
    (record,) = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 0 and problem(record) is None
    assert (record["key"], record["error"]["type"]) == ("cat", "NothingFound")


def test_queries_at_a_prompt_keep_the_model(blip: Blip, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.StringIO("cat\n./none.png\ndog\nquit\nnever\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", stdin)
    loaded: list[object] = []
    load = SearchOptions.load
    monkeypatch.setattr(SearchOptions, "load", lambda *args: loaded.append(args) or load(*args))
    result = blip("search", "-n", "1")
    assert result.code == 0 and len(rows(result.out)) == 2 and len(loaded) == 1
    assert result.err.count("search> ") == 4 and "./none.png: no such file" in result.err


def test_an_index_without_photos_is_an_error(blip: Blip, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    blip("index", tmp_path / "empty", *RANDOM)
    for args in (("cat",), ("--duplicates",), ("--similar",), ("cat", "--no-update")):
        result = blip("search", *args)
        assert result.code == 2 and result.out == "" and "index has no photos" in result.err
        assert len(result.err.splitlines()) == 1


def test_thumbnails_need_a_terminal(blip: Blip, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITTY_WINDOW_ID", "1")
    result = blip("search", "cat", "--thumbnails")
    assert "\x1b" not in result.out + result.err and len(rows(result.out)) == 4


def test_opening_without_a_desktop_is_noted(blip: Blip, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", lambda path: opened.append(path) or 0)
    blip("search", "./a.png", "-n", "1", "--open")
    assert opened == ["a.png"]
    monkeypatch.setattr("click.launch", lambda path: 1)
    assert "--open: no program opens a.png" in blip("search", "./a.png", "-n", "2", "--open").err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_searched(blip: Blip, indexed: Path, home: Path) -> None:
    (home / "index").chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        result = blip("search", "cat")
    finally:
        (home / "index").chmod(0o755)
    assert result.code == 0 and len(rows(result.out)) == 4 and "cannot be written" in result.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("-o", "x.jsonl"), 2, "-o x.jsonl without a query; must be used with one query"),
        (("--format", "csv"), 2, "--format csv without a query; must be text or jsonl"),
        (("",), 2, "query is empty"),
        (("cat", "-"), 2, "query ends with a sign"),
        (("cat", "--top", "0"), 2, "--top 0; must be an integer of at least 1"),
        (("cat", "--in", "nowhere"), 2, "nowhere: contains no indexed file"),
        (("cat", "-f", "--json"), 2, "must be one of the two"),
        (("--duplicates", "0.9"), 2, "must be used without a query; groups by cosine are --similar"),
        (("--duplicates", "--min-score", "0.9"), 2, "must be used with --similar"),
        (("--similar", "0.9"), 2, "the cosine is --min-score"),
        (("--similar", "--min-score", "2"), 2, "must be more than 0 and at most 1"),
        (("--similar", "--duplicates"), 2, "must be one of the two"),
        (("cat", "-o", "x.png", "--json"), 2, "must be one of the two"),
        (("cat", "--format", "xml"), 2, "--format xml; must be one of"),
        (("cat", "--no-updat"), 2, "unknown flag '--no-updat'; did you mean '--no-update'?"),
        (("./none.png",), 1, "./none.png: no such file"),
        (("https://example.org/a.jpg", "--offline"), 3, "--offline is set"),
        (("cat", "-m", "tiny"), 3, "index was created with 'random-tiny'"),
    ],
)
def test_usage_errors_are_one_line(blip: Blip, indexed: Path, args: tuple[str, ...], code: int, message: str) -> None:
    result = blip("search", *args, "-q")
    assert result.code == code and result.out == "" and message in result.err and len(result.err.splitlines()) == 1


def test_before_anything_is_indexed(blip: Blip, home: Path) -> None:
    result = blip("search", "cat")
    assert result.code == 2 and "no index here; create one with 'blip index DIR'" in result.err and not home.exists()
