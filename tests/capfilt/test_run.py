"""Score files: their rows, their independence of batches, bad data, and settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import blip
from blip import capfilt
from blip.capfilt.record import COLUMNS
from blip.engine.run import Summary
from blip_lite.decoding import Beam, Nucleus
from blip_lite.errors import UsageError
from tests.data.test_sources import png, tar_sample, write_tar

pq = pytest.importorskip("pyarrow.parquet")
MODELS = {"captioner": "random-tiny", "filter": "random-tiny", "device": "cpu", "workers": 2}
Rows = list[dict[str, Any]]


def scores(output: Path, name: str = "*") -> Rows:
    return [
        row for path in sorted((output / "scores").glob(f"{name}.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def run(data: Any, output: Path, **options: Any) -> Summary:
    return capfilt.run(data, output, **{**MODELS, **options})


def column(rows: Rows, name: str) -> list[Any]:
    return [row[name] for row in rows]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A tar of five images with two texts each, and a URL."""
    members = [
        m
        for i in range(5)
        for m in tar_sample(f"{i:04}", 50 * i, captions=[f"Text {i}.", "a dog"], url=f"http://x/{i}")
    ]
    return write_tar(tmp_path / "a.tar", members)


def test_a_tar_becomes_rows_of_web_and_synthetic_texts(shard: Path, tmp_path: Path) -> None:
    summary = run(shard, tmp_path / "out", captions=2)
    rows = scores(tmp_path / "out")
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 20 and summary.failed == 0
    first = rows[:4]
    assert column(first, "kind") == ["web", "web", "synthetic", "synthetic"] and column(first, "index") == [0, 1, 0, 1]
    assert column(first, "text")[:2] == ["Text 0.", "a dog"] and len(set(column(rows, "key"))) == 5
    row = rows[-1]
    assert (row["key"], row["shard"], row["image"], row["url"]) == ("a.tar/0004", str(shard), "0004.png", "http://x/4")
    with open(shard, "rb") as file:
        file.seek(row["offset"])
        assert file.read(row["size"]) == png(200)
    assert (row["width"], row["height"], row["row"], row["error"]) == (3, 2, None, None)
    assert row["tokens"] > 0 > row["logprob"] and rows[0]["tokens"] is rows[0]["logprob"] is None
    assert summary.counts.texts == {"web": 10, "synthetic": 10}


def test_texts_and_scores_are_those_of_the_models(shard: Path, tmp_path: Path) -> None:
    run(shard, tmp_path / "out", seed=7)
    rows, model = scores(tmp_path / "out"), blip.load("random-tiny")
    image = Image.new("RGB", (3, 2), (100, 100, 100))
    (caption,) = model.caption_batch([image], Nucleus(), seed=7, keys=["a.tar/0002"])
    mine = [row for row in rows if row["key"] == "a.tar/0002"]
    assert mine[2]["text"] == caption.text and mine[2]["logprob"] == pytest.approx(sum(caption.logprobs), abs=1e-4)
    assert column(mine, "text")[0] == "Text 2."  # unchanged, but scored as training reads it
    expected = model.match([image], ["text 2", *column(mine, "text")[1:]])
    assert expected.itm is not None and expected.itc is not None
    assert column(mine, "itm") == pytest.approx(list(expected.itm[0]), abs=1e-5)
    assert column(mine, "itc") == pytest.approx(list(expected.itc[0]), abs=1e-5)


def test_results_do_not_depend_on_batches_and_follow_from_the_seed(shard: Path, tmp_path: Path) -> None:
    for name, options in (
        ("a", {"batch_size": 1}),
        ("b", {"batch_size": 3}),
        ("c", {"seed": 1}),
        ("d", {"workers": 1}),
    ):
        run(shard, tmp_path / name, **options)
    a, b, c, d = (scores(tmp_path / name) for name in "abcd")
    assert column(a, "text") == column(b, "text") != column(c, "text")
    assert column(a, "itm") == pytest.approx(column(b, "itm"), abs=1e-6)
    assert column(d, "itm") == pytest.approx(column(b, "itm"), abs=1e-6)


def test_several_prompts_and_beam_search(shard: Path, tmp_path: Path) -> None:
    decoding = Beam(num_beams=3, num_captions=2)
    run(shard, tmp_path / "out", captions=2, prompts=["a photo of", "a"], decoding=decoding)
    rows = [row for row in scores(tmp_path / "out") if row["kind"] == "synthetic"]
    assert column(rows[:4], "index") == [0, 1, 2, 3] and len(rows) == 20
    with pytest.raises(UsageError, match="captions 3, but the decoding returns 2"):
        run(shard, tmp_path / "other", captions=3, decoding=decoding)


def test_an_image_is_decoded_and_encoded_once(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from blip.model.vision import VisionTransformer

    encoded, decoded = list[int](), list[object]()
    encode, read = VisionTransformer.encode_grid, capfilt.score.images.read

    def count(self: Any, grid: Any, *args: Any) -> Any:
        encoded.append(len(grid))
        return encode(self, grid, *args)

    monkeypatch.setattr(VisionTransformer, "encode_grid", count)
    resized, square = list[int](), capfilt.score.images.square
    monkeypatch.setattr(capfilt.score.images, "read", lambda *args, **kw: decoded.append(args) or read(*args, **kw))
    monkeypatch.setattr(capfilt.score.images, "square", lambda image, side: resized.append(side) or square(image, side))
    blip.load("random-tiny").save(tmp_path / "copy")
    run(shard, tmp_path / "same")
    run(shard, tmp_path / "equal", filter=str(tmp_path / "copy"))
    assert encoded == [5, 5] and len(decoded) == 10
    blip.load_random(seed=1).save(tmp_path / "other")
    run(shard, tmp_path / "two", filter=str(tmp_path / "other"))
    assert encoded == [5, 5, 5, 5] and len(decoded) == len(resized) == 15
    assert column(scores(tmp_path / "same"), "itm") == column(scores(tmp_path / "equal"), "itm")
    assert column(scores(tmp_path / "two"), "itm") != column(scores(tmp_path / "same"), "itm")


def test_human_pairs_are_kept_unscored_and_columns_copied(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    lines = [
        {"image": "a.png", "caption": "by hand", "human": True, "clip": 1, "note": "x"},
        {"image": "a.png", "caption": "from the web", "human": "0", "clip": 2.5, "note": ["y"]},
        {"image": "a.png", "caption": "also from the web", "human": None, "clip": None},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options: dict[str, Any] = {"human_column": "human", "copy_columns": ["clip", "note"]}
    summary = run(tmp_path / "t.jsonl", tmp_path / "out", **options)
    rows = scores(tmp_path / "out")
    assert column(rows, "kind") == ["human", "web", "web", "synthetic"] and column(rows, "row") == [1, 2, 2, 2]
    assert column(rows, "key") == ["a.png"] + 3 * ["a.png (2)"]
    assert rows[0]["itm"] is None and rows[0]["sha256"] == rows[1]["sha256"] and rows[0]["phash"] is not None
    assert column(rows, "clip") == [1, 2.5, None, 2.5] and column(rows, "note") == ["x", '["y"]', None, '["y"]']
    assert summary.counts.texts == {"human": 1, "web": 2, "synthetic": 1} and summary.failed == 0
    with pytest.raises(UsageError, match="copied column 'itm'; score files have a column of this name"):
        run(tmp_path / "t.jsonl", tmp_path / "other", copy_columns=["itm"])


def test_rows_of_one_image_share_their_synthetic_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    images = ["a.png", "a.png", "b.png", "a.png"]
    (tmp_path / "t.json").write_text(json.dumps([{"image": n, "caption": f"text {i}"} for i, n in enumerate(images)]))
    run(tmp_path / "t.json", tmp_path / "out")
    rows = [(row["key"], row["kind"], row["text"]) for row in scores(tmp_path / "out") if row["kind"] == "web"]
    assert rows == [
        ("a.png", "web", "text 0"),
        ("a.png", "web", "text 1"),
        ("b.png", "web", "text 2"),
        ("a.png (2)", "web", "text 3"),
    ]


def test_folders_with_sidecars_and_tables_with_images_inside(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "a.txt").write_text("first\nsecond\n")
    (folder / "b.png").write_bytes(png())
    pq.write_table(arrow.Table.from_pylist([{"image": png(3), "text": "t", "url": "http://x"}]), tmp_path / "t.parquet")
    run([folder, tmp_path / "t.parquet"], tmp_path / "out", rows_per_shard=1)
    rows = scores(tmp_path / "out")
    assert column(rows, "key") == ["a.png"] * 3 + ["b.png"] + ["t.parquet:1"] * 2
    assert column(rows, "image") == [str(folder / "a.png")] * 3 + [str(folder / "b.png")] + [None, None]
    assert column(rows, "row") == [None] * 4 + [1, 1] and column(rows, "url")[-1] == "http://x"
    assert sorted(path.name for path in (tmp_path / "out/scores").iterdir()) == [
        "photos-000000000.parquet",
        "photos-000000001.parquet",
        "t.parquet",
    ]


def bad_data(folder: Path) -> Sequence[str]:
    """Data with each kind of damage, beside two good samples in each of two tars."""
    good = [*tar_sample("g0", caption="good"), *tar_sample("g1", 9, caption="good")]
    broken = [("broken.png", png()[:30]), ("broken.txt", b"x")]
    alone = [("alone.txt", b"no image")]
    write_tar(folder / "mixed.tar", [*good, *broken, *alone, *tar_sample("g0", 99, caption="again")])
    write_tar(folder / "cut.tar", good)
    (folder / "cut.tar").write_bytes((folder / "cut.tar").read_bytes()[: 512 * 6 + 10])
    write_tar(folder / "between.tar", good)
    (folder / "between.tar").write_bytes((folder / "between.tar").read_bytes()[: 512 * 6])  # after g1.png
    (folder / "text.tar").write_text("not a tar")
    write_tar(folder / "none.tar", [])
    rows = [
        {"image": "missing.png", "caption": "x"},
        {"image": "https://a.example/b.jpg", "caption": "x"},
        {"caption": "y"},
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{")
    return [str(folder / name) for name in ("mixed.tar", "cut.tar", "between.tar", "text.tar", "none.tar", "t.jsonl")]


def test_bad_data_are_rows_with_their_reason_and_the_rest_continues(tmp_path: Path) -> None:
    summary = run(bad_data(tmp_path), tmp_path / "out", batch_size=2)
    rows = scores(tmp_path / "out")
    errors = {row["key"]: row["error"] for row in rows if row["error"]}
    assert {key: reason.split(" ")[0] for key, reason in errors.items()} == {
        "mixed.tar/broken": "truncated",
        "mixed.tar/alone": "no",
        "mixed.tar/g0 (2)": "duplicate",
        "cut.tar": "not",
        "between.tar": "not",
        "text.tar": "not",
        "none.tar": "holds",
        "missing.png": "no",
        "https://a.example/b.jpg": "the",
        "t.jsonl:3": "no",
        "t.jsonl:4": "not",
    }, errors
    assert "--fetch downloads it" in errors["https://a.example/b.jpg"]
    good = {row["key"] for row in rows if not row["error"]}
    assert good == {"mixed.tar/g0", "mixed.tar/g1", "cut.tar/g0", "between.tar/g0"}
    assert all(row["kind"] is row["text"] is row["itm"] is row["sha256"] is None for row in rows if row["error"])
    assert summary.failed == len(errors) and summary.counts.images == len(errors) + 4


def test_without_captions_an_image_without_text_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x.png", png()), *tar_sample("y", caption="a text")])
    summary = run(tmp_path / "a.tar", tmp_path / "out", captions=0)
    rows = scores(tmp_path / "out")
    assert column(rows, "kind") == [None, "web"] and column(rows, "error") == ["no text", None]
    assert rows[0]["width"] == 3 and summary.counts.errors == {"no text": 1}
    assert run(tmp_path / "a.tar", tmp_path / "other").failed == 0


def test_shards_that_are_done_are_skipped_without_loading_models(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shard, tmp_path / "out")
    monkeypatch.setattr("blip.capfilt.score.load", None)
    summary = run(shard, tmp_path / "out", batch_size=3)
    assert (summary.shards, summary.written, summary.counts.images) == (1, 0, 5)
    with pytest.raises(UsageError, match=r"out: made with captioner 'random-tiny' \(.{12}\), not 'tiny' \(.{12}\);"):
        run(shard, tmp_path / "out", captioner="tiny")
    with pytest.raises(UsageError, match=r"made with decoding.top_p 0.9, not 0.5"):
        run(shard, tmp_path / "out", decoding=Nucleus(top_p=0.5))
    with pytest.raises(UsageError, match="no such file"):
        run(tmp_path / "missing.tar", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_texts_of_any_characters_are_kept(tmp_path: Path) -> None:
    texts = ["\ud800 lone", "line\nbreak", "日本語", "x" * 5000]
    write_tar(tmp_path / "a.tar", tar_sample("x", captions=texts))
    run(tmp_path / "a.tar", tmp_path / "out")
    assert column(scores(tmp_path / "out"), "text")[:4] == ["? lone", *texts[1:]]
