from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from blip.data.sources import Reading, SampleList, concatenate, open_source
from blip.io import readers
from blip.io.samples import Sample
from blip.tasks.reward import Reward
from blip.train import fit
from blip_lite.errors import BadRecord, UnreadableImage, UsageError
from blip_lite.image import read
from tests.train.photos import caption_task, loop, write_photos


def png(shade: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (3, 2), (shade, shade, shade)).save(data, "PNG")
    return data.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_sample(name: str, shade: int = 0, **fields: Any) -> list[tuple[str, bytes]]:
    return [(f"{name}.png", png(shade)), (f"{name}.json", json.dumps(fields).encode())]


def texts(source: SampleList) -> list[tuple[str, ...]]:
    return [sample.texts for sample in source.samples]


def write_json(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_shards_of_a_brace_range_are_read_in_order(tmp_path: Path) -> None:
    for i in range(3):
        write_tar(tmp_path / f"s-0{i}.tar", tar_sample(f"k{i}", i * 9, captions=[f"A {i}.", "b"], split="dev"))
    source = open_source(f"{tmp_path}/s-{{00..02}}.tar")
    assert texts(source) == [(f"A {i}.", "b") for i in range(3)]
    assert [r.key for r in source.samples] == [f"s-0{i}.tar/k{i}" for i in range(3)]
    assert source[2].fields == {"split": "dev"}
    assert read(source[2].image.open()).getpixel((0, 0)) == (18, 18, 18)


def test_shards_take_texts_from_txt_members_line_by_line(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png()), ("a.txt", b"one\n\ntwo\n"), ("b.png", png())])
    assert texts(open_source(path)) == [("one", "two"), ()]


def test_samples_can_be_pickled_and_read_their_bytes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", tar_sample("a", 7, caption="x"))
    (tmp_path / "photo.png").write_bytes(png(9))
    source = pickle.loads(pickle.dumps(open_source([path, tmp_path])))
    assert [sample.image.read_bytes() for sample in source.samples] == [png(7), png(9)]


@pytest.mark.parametrize("column", ["caption", "captions", "text", "texts"])
@pytest.mark.parametrize("value", ["A dog.", ["A dog.", " two"]])
def test_json_lists_hold_one_text_or_several_under_any_known_name(tmp_path: Path, column: str, value: Any) -> None:
    path = write_json(tmp_path / "a.json", [{"image": "x/1.jpg", column: value, "image_id": "coco_9"}])
    sample = open_source(path, root="/images")[0]
    assert sample.texts == ((value,) if isinstance(value, str) else tuple(value))
    assert (sample.key, sample.image.path) == ("x/1.jpg", Path("/images/x/1.jpg"))
    assert sample.fields == {"image_id": "coco_9"}


def test_paths_in_a_table_are_relative_to_it_and_absolute_ones_stay(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "caption": "x"}, {"image": "/photos/b.jpg", "caption": "y"}]
    source = open_source(write_json(tmp_path / "a.json", rows))
    assert [r.image.path for r in source.samples] == [tmp_path / "a.jpg", Path("/photos/b.jpg")]


def test_jsonl_csv_and_tsv_hold_the_same_samples(tmp_path: Path) -> None:
    rows = '{"image": "1.png", "texts": ["a, b", "c"]}', '{"image": "2.png", "texts": ["d"]}'
    (tmp_path / "a.jsonl").write_text("\n\n".join(rows))
    (tmp_path / "a.csv").write_text('image,texts\n1.png,"[""a, b"", ""c""]"\n2.png,d\n')
    (tmp_path / "a.tsv").write_text('image\ttexts\n1.png\t"[""a, b"", ""c""]"\n2.png\td\n')
    sources = [open_source(tmp_path / name) for name in ("a.jsonl", "a.csv", "a.tsv")]
    assert [texts(source) for source in sources] == [[("a, b", "c"), ("d",)]] * 3
    assert [source[1].image.path for source in sources] == [tmp_path / "2.png"] * 3


def test_parquet_holds_paths_or_image_bytes(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"image": ["1.png"], "captions": [["a", "b"]]}), tmp_path / "p.parquet")
    parquet.write_table(pyarrow.table({"image": [png(4)], "text": ["c"]}), tmp_path / "b.parquet")
    paths, inside = (open_source(tmp_path / name) for name in ("p.parquet", "b.parquet"))
    assert (paths[0].texts, paths[0].image.path) == (("a", "b"), tmp_path / "1.png")
    assert (inside[0].texts, inside[0].image.read_bytes()) == (("c",), png(4))


def test_folders_have_text_files_beside_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.png", ".hidden.png"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "sub/a.txt").write_text("\ufeffone\r\ntwo\n", "utf-8")
    source = open_source(tmp_path)
    assert [(r.key, r.texts) for r in source.samples] == [("b.png", ()), ("sub/a.png", ("one", "two"))]


def test_chosen_columns_are_used_and_others_kept(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"file": "1.jpg", "alt": "x", "caption": "y", "id": 12}])
    sample = open_source(path, image_column="file", text_column="alt", key_column="id")[0]
    assert (sample.key, sample.texts, sample.fields) == ("12", ("x",), {"caption": "y", "id": 12})


BAD_ROWS = [
    ({"caption": "x"}, "no image path in column 'image'; columns are caption"),
    ({"image": "https://a.example/1.jpg", "caption": "x"}, "is a URL; download it first"),
    ({"image": "1.jpg", "caption": 3}, "column 'caption' must be a text or a list of texts, not 3"),
    ({"image": "1.jpg", "caption": ["x", None]}, "column 'caption' must be"),
    ({"image": "1.jpg", "caption": " "}, "no text in column 'caption'"),
    ({"image": "1.jpg"}, "no column of caption, captions, text, texts"),
    (["1.jpg"], "not a JSON object but list"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_bad_rows_name_file_and_row_or_are_listed(tmp_path: Path, row: Any, reason: str) -> None:
    path = write_json(tmp_path / "a.json", [{"image": "0.jpg", "caption": "x"}, row])
    with pytest.raises(BadRecord, match=rf"a\.json:2: .*{reason}"):
        open_source(path, require_text=True)
    source = open_source(path, require_text=True, skip_bad=True)
    assert len(source) == 1
    assert [(bad.where, reason in bad.reason) for bad in source.skipped] == [(f"{path}:2", True)]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("b.json", b"{}")], "no image beside b.json"),
        ([("b.png", png()), ("b.json", b"{")], "b.json: "),
        ([("b.png", png()), ("b.json", b"[1]")], "not a JSON object but list"),
    ],
)
def test_bad_samples_of_a_shard_are_reported(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    path = write_tar(tmp_path / "s.tar", [*tar_sample("a", caption="x"), *members])
    with pytest.raises(BadRecord, match=rf"s\.tar/b: .*{reason}"):
        open_source(path)
    assert len(open_source(path, skip_bad=True).skipped) == 1


def test_a_truncated_shard_keeps_its_good_samples_with_skip_bad(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [*tar_sample("a", caption="x"), *tar_sample("b", caption="y")])
    path.write_bytes(path.read_bytes()[: 5 * 512 + 10])
    with pytest.raises(BadRecord, match=r"s\.tar: not a readable tar"):
        open_source(path)
    assert [r.key for r in open_source(path, skip_bad=True).samples] == ["s.tar/a"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a.tar", "no such file"), ("a", "no such file"), ("a.xyz", "not a data source"), ("z.tgz", "compressed tar")],
)
def test_other_files_are_rejected(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "a.xyz").write_text("")
    (tmp_path / "z.tgz").write_bytes(b"\x1f\x8b" + bytes(20))
    with pytest.raises(UsageError, match=reason):
        open_source(tmp_path / name)


def test_a_source_without_samples_reports_its_first_bad_row(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"image": 1}])
    with pytest.raises(UsageError, match=r"holds no samples; first of 1 bad rows: .*a\.json:1"):
        open_source(path, skip_bad=True)


def test_sources_are_concatenated_in_order(tmp_path: Path) -> None:
    paths = [write_json(tmp_path / f"{n}.json", [{"image": n, "caption": n}, {"image": 0}]) for n in "ba"]
    opened = open_source(paths, skip_bad=True)
    joined = concatenate([open_source(path, skip_bad=True) for path in paths])
    assert texts(opened) == texts(joined) == [("b",), ("a",)]
    assert len(opened.skipped) == len(joined.skipped) == 2


def test_a_missing_image_fails_when_it_is_read(tmp_path: Path) -> None:
    sample = open_source(write_json(tmp_path / "a.json", [{"image": "gone.jpg", "caption": "x"}]))[0]
    with pytest.raises(UnreadableImage, match=r"gone\.jpg"):
        sample.image.read_bytes()


def test_a_source_is_read_once_per_run_whatever_its_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": f"{i}.png", "caption": str(i)} for i in range(3)]
    path, other = write_json(tmp_path / "a.json", rows), write_json(tmp_path / "b.json", rows)
    names: list[str] = []
    read = readers.located
    monkeypatch.setattr(readers, "located", lambda name, columns: names.append(name) or read(name, columns))

    def not_zero(sample: Sample) -> None:
        if sample.texts == ("0",):
            raise BadRecord(sample.where, "zero")

    reading = Reading(skip_bad=True)
    (tmp_path / "0.png").write_bytes(png())
    (tmp_path / "1.png").write_bytes(png())
    assert len(reading.open(path)) == 2 and reading.open(path) is reading.open([str(path)])
    assert texts(reading.open(path, check=not_zero)) == [("1",)]
    assert "zero" in [bad.reason for bad in reading.open(path, check=not_zero).skipped]
    assert len(reading.open(other)) == 2
    assert names == [str(path), str(other)]
    assert pickle.loads(pickle.dumps(reading)) == reading == Reading(skip_bad=True)


def test_training_with_a_reward_reads_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    read = readers.located
    monkeypatch.setattr(readers, "located", lambda name, columns: names.append(name) or read(name, columns))
    photos = write_photos(tmp_path / "photos")
    fit(caption_task(photos, reward=Reward(samples=2)), loop(steps=1, eval_every=1), tmp_path / "run")
    assert names == [str(photos)]
