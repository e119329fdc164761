"""Samples of WebDataset shards: which members belong together, which are used, and what a bad sample loses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from blip.io.byte_sources import TarMember
from blip.io.columns import Columns, ReadResult
from blip.io.inputs import find_inputs
from blip.io.readers import read
from blip.io.samples import Sample
from blip.io.shard_reader import shard
from blip_lite.errors import BadRecord, UnreadableImage
from tests.data.test_sources import png, write_tar


def results(path: Path, columns: Columns | None = None) -> list[ReadResult]:
    return list(shard(path, columns or Columns()))


def member(sample: ReadResult) -> str:
    assert isinstance(sample, Sample) and isinstance(sample.image.source, TarMember)
    return sample.image.source.name


def test_the_key_ends_at_the_first_dot_and_the_rest_is_the_field(tmp_path: Path) -> None:
    members = [("s0.input.jpg", png(1)), ("s0.caption.txt", b"a cat"), ("s1.input.jpg", png(2))]
    path = write_tar(tmp_path / "s.tar", [*members, ("s1.caption.txt", b"a dog")])
    samples = results(path)
    assert [(s.key, s.texts, len(s.images)) for s in samples if isinstance(s, Sample)] == [
        ("s.tar/s0", ("a cat",), 1),
        ("s.tar/s1", ("a dog",), 1),
    ]
    assert [(s.key, s.texts) for s in find_inputs([path])] == [(f"{path}/s0", ("a cat",)), (f"{path}/s1", ("a dog",))]


def test_a_mask_between_image_and_text_is_another_field(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("000.jpg", png(1)), ("000.seg.png", png(2)), ("000.txt", b"a cat")])
    (sample,) = results(path)
    assert isinstance(sample, Sample) and sample.texts == ("a cat",) and len(sample.images) == 1
    assert member(sample) == "000.jpg"
    (sample,) = results(path, Columns(image="seg.png"))
    assert member(sample) == "000.seg.png" and isinstance(sample, Sample) and sample.texts == ("a cat",)
    assert [s.key for s in find_inputs([path])] == [f"{path}/000"]


def test_hidden_members_belong_to_no_sample(tmp_path: Path) -> None:
    members = [("a.jpg", png()), ("._a.jpg", b"mac"), ("._a.txt", b"mac"), ("a.txt", b"x"), ("__MACOSX/._a.jpg", b"")]
    (sample,) = results(write_tar(tmp_path / "s.tar", members))
    assert isinstance(sample, Sample) and sample.texts == ("x",) and len(sample.images) == 1


def test_names_with_dots_are_read_by_choosing_the_endings(tmp_path: Path) -> None:
    members = [(f"IMG.00{i}.{end}", data) for i in (1, 2) for end, data in (("jpg", png(i)), ("txt", b"%d" % i))]
    path = write_tar(tmp_path / "s.tar", [*members, ("IMG.002.json", b'{"caption": "other"}')])
    (bad,) = results(path)
    assert isinstance(bad, BadRecord) and "name their endings with --image-column and --text-column" in bad.reason
    samples = results(path, Columns(image="jpg", text="txt"))
    assert [(s.key, s.texts) for s in samples if isinstance(s, Sample)] == [
        ("s.tar/IMG.001", ("1",)),
        ("s.tar/IMG.002", ("2",)),
    ]
    inputs = find_inputs([path])  # images are never lost
    assert [(s.key, s.texts) for s in inputs] == [(f"{path}/IMG.001", ()), (f"{path}/IMG.002", ())]


def test_a_named_text_field_wins_and_json_members_are_columns(tmp_path: Path) -> None:
    meta = json.dumps({"url": "u"}).encode()
    members = [("0.a.jpg", png()), ("0.alt.txt", b"no"), ("0.caption.txt", b"yes"), ("0.meta.json", meta)]
    path = write_tar(tmp_path / "s.tar", members)
    (sample,) = results(path)
    assert isinstance(sample, Sample) and (sample.texts, sample.fields) == (("yes",), {"url": "u"})
    (sample,) = results(path, Columns(text="alt.txt"))
    assert isinstance(sample, Sample) and sample.texts == ("no",)


def test_two_images_of_a_key_are_a_pair(tmp_path: Path) -> None:
    label = b'{"sentence": "s", "label": "True"}'
    path = write_tar(tmp_path / "s.tar", [("0.left.jpg", png(1)), ("0.right.jpg", png(2)), ("0.row.json", label)])
    (sample,) = results(path)
    assert isinstance(sample, Sample) and len(sample.images) == 2 and sample.fields["sentence"] == "s"
    assert [s.key for s in find_inputs([path])] == [f"{path}/0.left", f"{path}/0.right"]


def test_a_key_given_twice_in_a_row_is_two_samples(tmp_path: Path) -> None:
    members = [("0.png", png(1)), ("0.txt", b"x"), ("0.png", png(2)), ("0.txt", b"y")]
    samples = results(write_tar(tmp_path / "s.tar", members))
    assert [s.texts for s in samples if isinstance(s, Sample)] == [("x",), ("y",)]


def test_a_bad_text_costs_training_its_sample_and_inference_nothing(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.png", png()), ("a.json", b"{"), ("b.png", png()), ("b.txt", b"x")])
    bad, good = results(path)
    assert isinstance(bad, BadRecord) and bad.where == f"{path}/a" and isinstance(good, Sample)
    assert [(s.key, s.texts) for s in find_inputs([path])] == [(f"{path}/a", ()), (f"{path}/b", ("x",))]
    large = write_tar(tmp_path / "l.tar", [("a.png", png()), ("a.txt", bytes((1 << 20) + 1))])
    (bad,) = results(large)
    assert isinstance(bad, BadRecord) and "at most 1,048,576 are read" in bad.reason


def test_bad_rows_keep_their_key(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": "k", "caption": "x"}\n{"image": "a.png", "caption": 3}\n')
    assert [r.key for r in read(str(path), Columns())] == ["k", "a.png"]
    first, second = find_inputs([path])
    assert (first.key, second.key, second.texts) == ("k", "a.png", ())
    with pytest.raises(UnreadableImage, match="k: no image path"):
        first.read()


@pytest.mark.parametrize("damage", ["truncated", "zeroed name"])
def test_a_damaged_header_is_not_the_end_of_a_shard(tmp_path: Path, damage: str) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{i}.png", png(i)) for i in range(5)])
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[2 * 1024 + 100 :]
    else:
        data[2 * 1024 : 2 * 1024 + 100] = bytes(100)  # of the third member; its checksum is then wrong
    path.write_bytes(data)
    *good, bad = results(path)
    assert [sample.key for sample in good if isinstance(sample, Sample)] == ["s.tar/0"]
    assert isinstance(bad, BadRecord) and "damaged or truncated at byte 2,048" in bad.reason


@pytest.mark.skipif(os.name == "nt", reason="files are opened for each read there")
def test_a_shard_is_opened_once_for_all_its_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{i}.png", png(i)) for i in range(5)])
    samples = [sample for sample in results(path) if isinstance(sample, Sample)]
    opened: list[object] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda name, *args: opened.append(name) or real(name, *args))
    assert [s.read().getpixel((0, 0)) for s in samples] == [(i, i, i) for i in range(5)]
    assert opened == [path]
    write_tar(path, [("0.png", png(9))])  # listing again reads the new file
    (sample,) = results(path)
    assert isinstance(sample, Sample) and sample.read().getpixel((0, 0)) == (9, 9, 9)
