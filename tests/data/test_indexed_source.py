from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from blip.data import row_index
from blip.data.indexed_source import IndexedSource, join, open_for_training
from blip.data.sources import Reading, SampleList, Source, open_source
from blip.data.split import hold_out
from blip.io import readers
from blip.io.samples import Sample
from blip_lite.errors import BadRecord, ConfigError, UsageError
from tests.data.test_sources import png, tar_sample, write_json, write_tar
from tests.io.test_positions import FORMATS, ROWS, write_jsonl, write_parquet

INDEXED = Reading(memory_rows=0, skip_bad=True)


def rows_of(source: Source) -> list[Sample]:
    return [source[i] for i in range(len(source))]


def opened(spec: Any, reading: Reading = INDEXED, **options: Any) -> IndexedSource:
    source = open_for_training(reading, spec, **options)
    assert isinstance(source, IndexedSource)
    return source


def write_shards(folder: Path, shards: int = 3, rows: int = 4) -> list[str]:
    for number in range(shards):
        members = [m for i in range(rows) for m in tar_sample(f"{i}", i, caption=f"{number} {i}")]
        write_tar(folder / f"{number}.tar", members)
    return [str(folder / f"{number}.tar") for number in range(shards)]


def indexes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((folder / ".blip").glob("*.rows"))}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("need_text", [False, True])
def test_indexed_rows_are_those_held_in_memory(tmp_path: Path, name: str, need_text: bool) -> None:
    path = FORMATS[name](tmp_path / name)
    source = opened(path, need_text=need_text)
    expected = open_source(path, require_text=need_text, skip_bad=True).samples
    assert rows_of(source) == list(expected)
    assert [source[i] for i in reversed(range(len(source)))] == list(reversed(expected))
    assert sum(source.shards) == len(expected)
    assert rows_of(pickle.loads(pickle.dumps(source))) == list(expected)


def test_columns_and_checks_apply_to_indexed_rows(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"file": f"{i}.jpg", "alt": f"t{i}", "q": "?" * i} for i in range(4)])
    reading = Reading(image="file", text="alt", question="q", key="alt", memory_rows=0, skip_bad=True)
    assert rows_of(opened(path, reading, check=has_question)) == list(
        Reading(image="file", text="alt", question="q", key="alt").open(path).samples[1:]
    )
    assert len(indexes(tmp_path)) == 1
    assert len(opened(path, reading)) == 4  # without the check: another index
    assert len(indexes(tmp_path)) == 2


def has_question(sample: Sample) -> None:
    if not sample.fields["question"]:
        raise BadRecord(sample.where, "no question")


def test_checks_without_a_name_are_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", ROWS)
    with pytest.raises(ConfigError, match="check: must be a function of a module"):
        opened(path, check=lambda sample: None)


def test_up_to_a_number_of_rows_are_held_in_memory(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    assert isinstance(open_for_training(Reading(memory_rows=12), names), SampleList)
    assert not (tmp_path / ".blip").exists()
    large = opened(names, Reading(memory_rows=11))
    assert rows_of(large) == list(open_source(names).samples) and large.shards.tolist() == [4, 4, 4]
    assert isinstance(open_for_training(Reading(memory_rows=12), names), SampleList)  # whether there is an index or not
    assert isinstance(open_for_training(Reading(memory_rows=11), names[:2]), SampleList)


def test_an_index_is_kept_until_its_file_changes(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    opened(names)
    before = indexes(tmp_path)
    opened(names)
    assert indexes(tmp_path) == before and len(before) == 3
    write_tar(tmp_path / "1.tar", [m for i in range(9) for m in tar_sample(f"{i}", i, caption=f"new {i}")])
    assert rows_of(opened(names)) == list(open_source(names).samples)
    changed = [name for name, built in indexes(tmp_path).items() if before[name] != built]
    assert [name.split(".")[0] for name in changed] == ["1"]
    os.utime(names[0], ns=(0, 0))  # same size
    opened(names)
    assert indexes(tmp_path)[min(before)] != before[min(before)]


@pytest.mark.parametrize("keep", [0, 5, 40, -1, -9])
def test_a_damaged_index_is_built_again(tmp_path: Path, keep: int) -> None:
    names = write_shards(tmp_path, 1)
    opened(names)
    (path,) = (tmp_path / ".blip").glob("*.rows")
    path.write_bytes(path.read_bytes()[:keep])
    assert len(opened(names)) == 4


def test_an_index_is_in_the_cache_if_its_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIP_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    names = write_shards(data)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(data)))
    assert rows_of(opened(names)) == list(open_source(names).samples)
    assert not (data / ".blip").exists()
    built = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/rows").rglob("*.rows")}
    opened(names)
    assert len(built) == 3 and all(path.stat().st_mtime_ns == time_ns for path, time_ns in built.items())


def slow_check(sample: Sample) -> None:
    with open(os.environ["CHECKED"], "a") as file:
        file.write(f"{sample.key}\n")
    time.sleep(0.01)


def open_slowly(names: list[str]) -> None:
    assert len(opened(names, check=slow_check)) == 12


def test_processes_that_start_together_build_each_index_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_shards(tmp_path)
    monkeypatch.setenv("CHECKED", str(tmp_path / "checked"))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=open_slowly, args=(names,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((tmp_path / "checked").read_text().splitlines()) == 12


def test_a_killed_build_leaves_no_index_and_is_taken_over(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    program = (
        "import sys; from tests.data.test_indexed_source import opened, slow_check; "
        "import tests.data.test_indexed_source as t; t.time.sleep = lambda s, sleep=t.time.sleep: sleep(30); "
        "opened(sys.argv[1:], check=slow_check)"
    )
    environment = {**os.environ, "CHECKED": str(tmp_path / "checked")}
    process = subprocess.Popen([sys.executable, "-c", program, *names], env=environment, start_new_session=True)
    while not (tmp_path / "checked").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, 9)
    process.wait()
    assert not indexes(tmp_path)
    os.environ["CHECKED"] = str(tmp_path / "checked")
    try:
        assert len(opened(names, check=slow_check)) == 12
    finally:
        del os.environ["CHECKED"]
    assert not list((tmp_path / ".blip").glob(".*"))  # neither locks nor temporary files


def test_bad_rows_stop_or_are_counted_and_the_first_are_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_index, "SHOWN", 2)
    rows = [*ROWS, {"image": "x.jpg"}, 7, {"caption": "y"}]
    paths = [write_json(tmp_path / "a.json", ROWS), write_json(tmp_path / "b.json", rows)]
    for _ in range(2):  # the second time from the index
        with pytest.raises(BadRecord, match=r"b\.json:6: no column of caption"):
            opened(paths, Reading(memory_rows=0), need_text=True)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "blip.data.indexed_source"):
            assert len(opened(paths, need_text=True)) == 10
        warning = caplog.messages[-1]
        assert "3 bad rows left out, the first 2 of them" in warning and "b.json:7" in warning


def test_a_source_without_usable_rows_and_missing_files_are_named(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"image": "x.jpg"}])
    with pytest.raises(UsageError, match=r"a\.json: holds no usable rows"):
        opened(path, need_text=True)
    with pytest.raises(UsageError, match=r"b\.tar: no such file"):
        opened(tmp_path / "b.tar")
    (tmp_path / "c.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UsageError, match=r"c\.tar: not a readable tar file"):
        opened(tmp_path / "c.tar")


def test_files_without_positions_are_held_in_memory_beside_indexed_ones(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\n1.png,x\n")
    (tmp_path / "1.png").write_bytes(png())
    specs = [*write_shards(tmp_path, 1), str(tmp_path / "a.csv")]
    source = opened(specs)
    assert rows_of(source) == list(open_source(specs).samples)
    assert (source.parts, source.shards.tolist()) == ((4, 1), [4, 1])


def test_large_tables_have_several_shards_and_row_groups_stay_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_index, "SHARD_ROWS", 2)
    monkeypatch.setattr(row_index, "_GROUP_ROWS", 2)
    assert opened(write_jsonl(tmp_path / "a.jsonl")).shards.tolist() == [2, 2, 1]
    monkeypatch.setattr(row_index, "SHARD_ROWS", 5)
    assert opened(write_parquet(tmp_path / "a.parquet", groups=3), need_text=True).shards.tolist() == [3, 1]


def test_positions_of_many_blocks_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_index, "_BLOCK", 3)
    path = write_json(tmp_path / "a.json", [{"image": f"{i}.jpg", "caption": str(i)} for i in range(20)])
    assert [sample.texts for sample in rows_of(opened(path))] == [(str(i),) for i in range(20)]


def test_the_bytes_of_a_shard_contain_its_samples(tmp_path: Path) -> None:
    source = opened(write_shards(tmp_path, 2))
    part = source.byte_range(4, 4)
    assert part is not None and part.file == tmp_path / "1.tar"
    with open(part.file, "rb") as file:
        file.seek(part.start)
        data = file.read(part.end - part.start)
    assert png(3) in data and b'{"caption": "1 3"}' in data
    assert opened(write_jsonl(tmp_path / "a.jsonl")).byte_range(0, 2) is None


def test_indexed_sources_are_joined_with_others(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    joined = join([opened(names[:2]), open_source(names[2])])
    assert isinstance(joined, IndexedSource) and joined.parts == (8, 4)
    assert rows_of(joined) == list(open_source(names).samples)
    assert isinstance(join([open_source(names[0]), open_source(names[1])]), SampleList)


def test_no_share_of_indexed_rows_can_be_held_out(tmp_path: Path) -> None:
    source = opened(write_shards(tmp_path))
    assert hold_out(source, "auto") == (source, None)
    with pytest.raises(ConfigError, match=r"val 10%: rows that are read through an index cannot be grouped by photo"):
        hold_out(source, "10%")


def test_parts_are_the_rows_of_each_spec(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    pattern = str(tmp_path / "[01].tar")
    assert open_source([pattern, names[2]]).parts == (8, 4)
    assert opened([pattern, names[2]]).parts == (8, 4)
    assert Reading().open([names[2], f"{tmp_path}/{{0..1}}.tar"]).parts == (4, 8)
    train, held = hold_out(open_source([pattern, names[2]]), "25%")
    assert isinstance(train, SampleList) and sum(train.parts) == len(train) == 9 and held is not None
    counts = [sum(sample.where.startswith(name) for sample in train.samples) for name in names]
    assert train.parts == (counts[0] + counts[1], counts[2])


def test_quoted_patterns_name_sorted_files(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    assert rows_of(open_source(str(tmp_path / "*.tar"))) == list(open_source(names).samples)
    with pytest.raises(UsageError, match=r"x-\*\.tar: no such file"):
        open_source(str(tmp_path / "x-*.tar"))


def test_reading_a_row_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(write_shards(tmp_path))
    (tmp_path / "0.tar").unlink()
    monkeypatch.setattr(readers, "located", lambda *args: pytest.fail("was read"))
    assert source[11].texts == ("2 3",)
    assert json.loads(json.dumps(source[11].texts[0])) == "2 3"
