"""A folder as output: a file of records per shard, the same records as those of a run that writes one file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.cli.conftest import Blip
from tests.data.test_sources import png, tar_sample, write_tar

RANDOM = ("-m", "random-tiny")


@pytest.fixture(autouse=True)
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tars of two images, one of them broken, and a table of three images."""
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "0.tar", [*tar_sample("a", 10), *tar_sample("b", 20)])
    write_tar(tmp_path / "1.tar", [*tar_sample("a", 30), ("b.png", b"\x89PNG\r\n\x1a\n")])
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(50 * i))
    rows = [{"image": f"{i}.png", "caption": 3} for i in range(3)]  # texts are not read
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def records(path: Path) -> list[dict[str, Any]]:
    """The records without columns that are null."""
    return [{k: v for k, v in row.items() if v is not None} for row in pyarrow.parquet.read_table(path).to_pylist()]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    "verb",
    [
        ("caption", "-n", "2"),
        ("caption", "--sample", "--itm-model", "random-tiny"),
        ("embed",),
        ("embed", "--kind", "multimodal", "-t", "a cat"),
    ],
    ids=" ".join,
)
def test_records_are_those_of_one_file(blip: Blip, shards: Path, verb: tuple[str, ...]) -> None:
    data = ("0.tar", "1.tar", "table.jsonl")
    assert blip(*verb, *data, *RANDOM, "-o", "all.jsonl").code == 1
    result = blip(*verb, *data, *RANDOM, "-o", "out/", "--rows-per-shard", "2")
    assert result.code == 1
    assert "4 shards, 7 images, 6 done, 1 failed, " in result.err and "1 failed: truncated" in result.err
    names = ("0", "1", "table-000000000", "table-000000002")
    assert set(files(shards / "out")) == {*(f"{name}.parquet" for name in names), "settings.json", "units.jsonl"}
    expected = [json.loads(line) for line in (shards / "all.jsonl").read_text().splitlines()]
    written = [row for name in names for row in records(shards / "out" / f"{name}.parquet")]
    assert [row["key"] for row in written] == [row["key"] for row in expected]
    for row, other in zip(written, expected, strict=True):
        assert row.pop("vector", None) == pytest.approx(other.pop("vector", None), abs=1e-5)  # batches differ
        assert row == other


def test_files_have_the_same_columns_and_only_missing_ones_are_written(blip: Blip, shards: Path) -> None:
    command = ("caption", "{0..1}.tar", *RANDOM, "-o", "out/")
    blip(*command)
    first = files(shards / "out")
    columns = [pyarrow.parquet.read_schema(shards / "out" / f"{i}.parquet") for i in range(2)]
    assert columns[0].equals(columns[1]) and columns[0].names[-1] == "error"
    (shards / "out/0.parquet").unlink()
    before = (shards / "out/1.parquet").stat().st_mtime_ns
    result = blip(*command)
    assert result.code == 1 and "2 shards (1 done before), 4 images, 3 done, 1 failed, " in result.err
    assert files(shards / "out") == first and (shards / "out/1.parquet").stat().st_mtime_ns == before
    result = blip("caption", "1.tar", *RANDOM, "-o", "out")  # the folder exists
    assert result.code == 1 and "1 shard (1 done before), 2 images, 1 done, 1 failed, " in result.err


@pytest.mark.parametrize("verb", ["caption", "embed"])
def test_a_tar_that_is_cut_between_its_members_is_reported(blip: Blip, shards: Path, verb: str) -> None:
    path = shards / "0.tar"
    path.write_bytes(path.read_bytes()[: 4 * 512])  # the first image and its text
    result = blip(verb, "0.tar", "1.tar", *RANDOM, "-o", "out/")
    assert result.code == 1 and "2 shards, 4 images, 2 done, 2 failed, " in result.err
    assert (
        "1 failed: not a readable tar file (truncated at byte N: no zero block marks its end); its last" in result.err
    )
    first, second = records(shards / "out/0.parquet")
    assert first["key"] == "0.tar/a" and "error" not in first
    assert second["key"] == "0.tar" and second["error"]["reason"].startswith("not a readable tar file (truncated at")


@pytest.mark.parametrize(
    ("args", "difference"),
    [
        (("caption", "-n", "2"), "num_captions 1, not 2"),
        (("caption", "--sample"), "decoding.sample false, not true"),
        (("caption", "-m", "tiny"), "model 'random-tiny' ("),
        (("caption", "--rows-per-shard", "5"), "rows_per_shard 10000, not 5"),
        (("embed",), 'record "caption/1", not "embedding/1"'),
    ],
    ids=str,
)
def test_other_settings_are_refused(blip: Blip, shards: Path, args: tuple[str, ...], difference: str) -> None:
    assert blip("caption", "0.tar", *RANDOM, "-o", "out/").code == 0
    before = files(shards / "out")
    result = blip(args[0], "0.tar", *RANDOM, *args[1:], "-o", "out/")
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert f"out: made with {difference}" in result.err
    assert files(shards / "out") == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("caption", "0.tar", "--engine", "ray"), "--engine ray; must be used with a folder as output, -o FOLDER/"),
        (("embed", "0.tar", "-o", "a.npz", "--engine", "ray"), "--engine ray; must be used with a folder as output"),
        (("caption", "0.tar", "-o", "out/", "--actors", "2"), "--actors and --ray-address; must be used with --engine"),
        (
            ("embed", "0.tar", "-o", "out/", "--engine", "ray", "--device", "cuda:1"),
            "device cuda:1 with engine ray; must",
        ),
        (("caption", "0.tar", "-o", "out/", "--limit", "2"), "--limit with -o out/; must be used with a file as"),
        (("caption", "0.tar", "-o", "out/", "--from-file", "x"), "--from-file with -o out/; must be used with a file"),
        (("caption", "0.tar", "-o", "out/", "--json"), "--json with -o out/; must be used with a file as output"),
        (("caption", "0.tar", "-o", "out/", "--format", "csv"), "--format csv with -o out/; must be parquet"),
        (("caption", "0.tar", "-o", "out/", "--summary"), "--summary or sidecars with -o out/; must be used with a"),
        (("embed", "-o", "out/", "--kind", "text", "-t", "a"), "-o out/; must be used with images, and at most one"),
        (("caption", "missing.tar", "-o", "out/"), "missing.tar: no such file"),
        (("caption", "0.png", "-o", "out/"), "0.png: not a data source; must be a folder or one of .tar"),
        (("match", "0.tar", "-t", "a", "-o", "out/"), "-o out: no ending; must be one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_does_not_fit_a_folder_is_refused(blip: Blip, shards: Path, args: tuple[str, ...], message: str) -> None:
    result = blip(*args, *RANDOM)
    assert result.code == 2 and message in result.err and len(result.err.splitlines()) == 1, result.err
    assert not (shards / "out").exists()


def test_a_dry_run_lists_the_shards(blip: Blip, shards: Path) -> None:
    result = blip("caption", "0.tar", "table.jsonl", *RANDOM, "-o", "out/", "--rows-per-shard", "2", "--dry-run")
    assert (result.code, result.out.split()) == (0, ["0", "table-000000000", "table-000000002"])
    assert "3 shards, device auto, engine local, to out" in result.err and not (shards / "out").exists()


def test_missing_ray_is_one_line(blip: Blip, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    result = blip("caption", "0.tar", *RANDOM, "-o", "out/", "--engine", "ray")
    assert result.code == 4
    assert result.err == 'blip: error: --engine ray needs an extra: pip install "blip-vlm[ray]"\n'
