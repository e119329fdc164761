"""The CapFilt experiment: kinds of noise, bookkeeping of the steps, tables. Nothing is trained."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from blip import capfilt
from blip.checkpoint.files import write_folder
from blip.data.sources import open_source
from blip.model.blip import BlipModel
from experiments.capfilt import data, model, quality, results, run, scoring, train
from experiments.capfilt.corrupt import (
    ALT_TEXT,
    GENERIC,
    GENERIC_TEXTS,
    KINDS,
    SIMILAR,
    SWAPPED,
    TRUE,
    TRUNCATED,
    alt_text,
    corrupt,
    truncate,
)
from experiments.capfilt.data import Files
from experiments.capfilt.plot import plot
from experiments.capfilt.texts import TextQuality

CAPTIONS = [f"a {animal} runs on the {place}" for animal in ("dog", "cat", "cow", "man") for place in "abcde"]
NEIGHBOURS = [[(i + 1) % 20, (i + 2) % 20] for i in range(20)]


def test_the_stated_share_is_corrupted_in_equal_parts() -> None:
    captions = CAPTIONS * 10  # of 200 photos
    web = corrupt(captions, [NEIGHBOURS[i % 20] for i in range(200)], rate=0.5, seed=0)
    assert Counter(caption.kind for caption in web) == {TRUE: 100} | dict.fromkeys(KINDS, 20)
    changed = [new.text != old for new, old in zip(web, captions, strict=True)]
    assert changed == [caption.kind != TRUE for caption in web]  # the record is the truth
    assert web == corrupt(captions, [NEIGHBOURS[i % 20] for i in range(200)], rate=0.5, seed=0)


def test_each_kind_of_corruption() -> None:
    for seed in range(20):
        for photo, (caption, web) in enumerate(zip(CAPTIONS, corrupt(CAPTIONS, NEIGHBOURS, 1.0, seed), strict=True)):
            if web.kind == SIMILAR:
                assert web.text in [CAPTIONS[i] for i in NEIGHBOURS[photo]]
            elif web.kind == SWAPPED:
                assert web.text in CAPTIONS and web.text != caption
            elif web.kind == TRUNCATED:
                assert caption.startswith(web.text + " ")
            elif web.kind == GENERIC:
                assert web.text in GENERIC_TEXTS
            else:
                assert web.kind == ALT_TEXT and any(mark in web.text for mark in "0123456789_")


def test_texts_of_few_words() -> None:
    rng = Random(0)
    assert {truncate("a dog", rng) for _ in range(20)} == {"a"}
    assert {truncate("dog", rng) for _ in range(20)} == {"dog"}
    assert all(alt_text("it is on the.", rng) for _ in range(20))  # no word to make a name of


def test_a_similar_photo_with_the_same_caption_is_passed_over() -> None:
    web = corrupt(["one"] * 5 + ["two"], [[1, 2]] * 6, rate=1.0, seed=0)
    assert [caption.text for caption in web if caption.kind == SIMILAR] in (["two"], ["one"])


def test_nearest_are_other_photos_by_cosine() -> None:
    unit = np.array([[1, 0], [0.9, 0.4359], [0, 1], [0.1, 0.995]], dtype=np.float32)
    assert data.nearest(unit, count=1) == [[1], [0], [3], [2]]


def photos(files: Files, count: int = 12) -> None:
    rows = [{"key": f"p{i}", "image": f"../photos/p{i}.jpg", "captions": CAPTIONS[i : i + 2]} for i in range(count)]
    data.write_rows(files.photos, rows)
    features = np.random.RandomState(0).rand(count, 1, 8, 2, 2).astype(np.float16)
    np.save(files.features, features)
    files.features.with_suffix(".json").write_text(json.dumps([row["key"] for row in rows]))


def test_human_and_web_pairs_divide_the_photos(tmp_path: Path) -> None:
    files = Files(tmp_path)
    photos(files)
    data.write_pairs(files, human=4, rate=0.5)
    human, web, clean = (data.read_rows(files.pairs(name)) for name in ("human", "web", "clean"))
    assert len(human) == 4 and all(len(row["captions"]) == 2 for row in human)
    assert {row["key"] for row in human + web} == {f"p{i}" for i in range(12)}
    assert [row["key"] for row in web] == [row["key"] for row in clean]
    assert [row["caption"] == other["caption"] for row, other in zip(web, clean, strict=True)] == [
        row["true"] for row in web
    ]
    assert sum(row["true"] for row in web) == 4
    (sample, *_) = open_source(files.pairs("web")).samples
    assert sample.texts and sample.fields["noise"] in (TRUE, *KINDS)


def scores_file(folder: Path, rows: list[tuple[str, str, float, float]]) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = ("kind", "noise", "itm", "itc")
    columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    columns |= {"image": [f"photos/p{4 + i % 8}.jpg" for i in range(len(rows))], "text": CAPTIONS[: len(rows)]}
    table = arrow.table(columns)
    (folder / "scores").mkdir(parents=True)
    parquet.write_table(table, folder / "scores" / "web.parquet")


def test_quality_of_the_filter(tmp_path: Path) -> None:
    scores_file(
        tmp_path,
        [
            *[("web", TRUE, 0.9, 0.3)] * 3,
            ("web", TRUE, 0.2, 0.1),
            ("web", SWAPPED, 0.1, 0.0),
            ("web", SIMILAR, 0.8, 0.2),
            *[("web", kind, 0.1, 0.0) for kind in (TRUNCATED, ALT_TEXT, GENERIC)],
            ("synthetic", TRUE, 0.7, 0.2),
            ("synthetic", SIMILAR, 0.4, 0.2),
        ],
    )
    measured = quality.filter_quality(tmp_path, 0.5)
    assert measured["kept"] == {"web": pytest.approx(4 / 9), "synthetic": 0.5}
    assert measured[TRUE] == {"precision": 0.75, "recall": 0.75}
    assert measured[SWAPPED] == {"recall": 1.0, "precision": 0.8, "auc_itm": 1.0, "auc_itc": 1.0}
    assert measured[SIMILAR]["recall"] == 0 and measured[SIMILAR]["auc_itm"] == 0.75
    assert measured["all"]["recall"] == 0.8


def test_quality_of_the_texts(tmp_path: Path) -> None:
    files = Files(tmp_path)
    captions = {
        "p0": ["A dog runs on the a.", "a brown dog on the grass"],
        "p1": ["a cat runs on the b", "two cats near a wall"],
        "p2": ["a man runs on the c"],
        "p3": ["a human pair", "of a photo that is not a web photo"],
    }
    rows = [{"key": key, "image": f"{key}.jpg", "captions": texts} for key, texts in captions.items()]
    data.write_rows(files.photos, rows)
    given = {"p0": "a dog runs on the a", "p1": "a cat runs on the b", "p2": "a man runs on the c"}
    clean = [{"key": key, "image": f"{key}.jpg", "caption": text} for key, text in given.items()]
    data.write_rows(files.pairs("clean"), clean)
    quality = TextQuality(files)
    assert quality.score("p2", given["p2"]) is None and quality.score("p3", "a human pair") is None
    best, other, given_one = (quality.score("p0", text) for text in (captions["p0"][1], captions["p1"][1], given["p0"]))
    assert best is not None and other == 0.0 and given_one is not None
    assert best == pytest.approx(10.0) and given_one < best / 4  # the caption of the pair is left out


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace training, scoring and selection by functions that write their outputs; returns the calls."""
    calls: list[tuple[Any, ...]] = []

    def trained(kind: str, output: Path, *details: Any) -> None:
        calls.append((kind, output.name, *details))
        (output / "final").mkdir(parents=True)

    def pretrain(files: Files, pairs: list[Path], seed: int, steps: int, output: Path) -> None:
        trained("train", output, [path.parent.name if path.name == scoring.SELECTED else path.stem for path in pairs])

    def fine_tune(files: Files, kind: str, start: Path, seed: int, output: Path) -> None:
        trained("tune", output, kind, start.name)

    def score(files: Files, captioner: Path, filter_: Path, decoding: Any, output: Path) -> None:
        calls.append(("score", output.name, captioner.name, filter_.name, type(decoding).__name__))
        scores_file(output, [("web", kind, 0.5, 0.1) for kind in (TRUE, *KINDS)] + [("synthetic", TRUE, 0.9, 0.2)])

    def select(scores: Path, output: Path, threshold: float, where: str | None) -> None:
        calls.append(("select", output.name, scores.name, threshold, where))
        output.mkdir(parents=True)
        (output / scoring.SELECTED).touch()

    def measure(files: Files, folder: Path) -> dict[str, dict[str, float]]:
        return {dev: dict.fromkeys(results.COLUMNS, float(len(folder.name))) for dev in data.DEV}

    for module, function in ((train, pretrain), (train, fine_tune), (train, measure), (scoring, score)):
        monkeypatch.setattr(module, function.__name__, function)

    def write_tiny(files: Files) -> None:
        data.write_rows(files.pairs("tiny"), data.read_rows(files.pairs("clean")))

    monkeypatch.setattr(scoring, "select", select)
    monkeypatch.setattr(data, "write_tiny", write_tiny)
    return calls


def test_parts_use_the_models_and_scores_of_the_main_one(tmp_path: Path, stubs: list[tuple[Any, ...]]) -> None:
    files = Files(tmp_path)
    run.keep_settings(tmp_path / "settings.json", run.Settings())
    photos(files)
    data.write_pairs(files, human=4, rate=0.5)
    experiment = run.Experiment(files, run.Settings())
    for part in run.PARTS:
        run.carry_out(getattr(experiment, part)(0), tmp_path)
    assert ("train", "noisy", ["human", "web"]) in stubs and ("train", "clean", ["human", "clean"]) in stubs
    assert ("train", "both", ["human", "both-pairs"]) in stubs and ("train", "human", ["human"]) in stubs
    assert ("tune", "filter-1", "filter", "noisy") in stubs and ("tune", "captioner-2", "captioner", "both") in stubs
    assert ("score", "nucleus", "captioner-1", "filter-1", "Nucleus") in stubs
    assert ("score", "beam", "captioner-1", "filter-1", "Beam") in stubs
    assert ("score", "shared-scores", "shared", "shared", "Nucleus") in stubs
    assert ("select", "filter-pairs", "nucleus", 0.5, "kind = 'web'") in stubs
    assert ("select", "captioner-pairs", "nucleus", 0.0, None) in stubs
    assert ("select", "both-second-pairs", "round-2", 0.5, None) in stubs

    count = len(stubs)
    for part in run.PARTS:
        run.carry_out(getattr(experiment, part)(0), tmp_path)
    assert len(stubs) == count  # everything is done
    (tmp_path / "seed-0" / "both" / "final").rmdir()
    run.carry_out(experiment.main(0), tmp_path)
    assert stubs[count:] == [("train", "both", ["human", "both-pairs"])]

    run.carry_out(experiment.main(1), tmp_path)
    collected = results.collect(files)
    assert set(collected["runs"]["noisy"]) == {"0", "1"} and set(collected["runs"]["both-0.3"]) == {"0"}
    assert set(collected["filters"]) == set(collected["texts"]) == set(results.SCORES)
    qualities = collected["texts"]["nucleus"]["0"]
    assert qualities["synthetic texts"] == qualities["synthetic texts, kept"] and "texts of `tiny`" in qualities
    text = results.tables(collected)
    assert "| noisy web captions | 2 | 5.000 ± 0.000 |" in text and "| 127.8 | 38.0 | 78.4 | 60.7 |" in text
    assert "| both | -1.000 ± 0.000 |" in text and "| +1.9 | +0.6 | +2.2 | +2.4 |" in text
    ElementTree.fromstring(plot(collected["runs"]))


def test_a_threshold_that_no_caption_reaches_selects_none(tmp_path: Path) -> None:
    scores_file(tmp_path, [("web", TRUE, 0.3, 0.1), ("synthetic", TRUE, 0.8, 0.1)])
    scoring.select(tmp_path, tmp_path / "none", 0.9, None)
    scoring.select(tmp_path, tmp_path / "web", 0.5, scoring.WEB_ONLY)
    assert not (tmp_path / "none" / scoring.SELECTED).read_text() + (tmp_path / "web" / scoring.SELECTED).read_text()


def test_a_step_without_its_output_stops_the_rest(tmp_path: Path) -> None:
    later: list[int] = []
    steps = [
        run.Step("a/b", tmp_path / "missing", lambda: None),
        run.Step("c", tmp_path / "c", lambda: later.append(1)),
    ]
    with pytest.raises(SystemExit, match=r"a/b: .*missing was not written"):
        run.carry_out(iter(steps), tmp_path)
    assert not later


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    run.keep_settings(path, run.Settings())
    run.keep_settings(path, run.Settings())
    with pytest.raises(SystemExit, match="made with other settings"):
        run.keep_settings(path, run.Settings(steps=5))


def test_spread_over_seeds() -> None:
    assert results.spread([0.5], 3) == "0.500"
    assert results.spread([1.0, 3.0], 1, sign=True) == "+2.0 ± 1.4"


def test_cached_features_are_scored_as_the_tool_scores_photos(tmp_path: Path) -> None:
    """The experiment replaces the reading of photos in `blip capfilt run`: texts and scores must not change."""
    parquet = pytest.importorskip("pyarrow.parquet")
    files, rng = Files(tmp_path), np.random.RandomState(0)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(rng.randint(0, 256, (60, 80, 3), dtype=np.uint8)).save(files.photo(f"p{i}"), quality=95)
    rows = [{"key": f"p{i}", "image": f"../photos/p{i}.jpg", "caption": "a dog", "noise": TRUE} for i in range(3)]
    data.write_rows(files.pairs("web"), rows)
    torch.manual_seed(0)
    network = BlipModel(model.config(40))
    vocab = tmp_path / "words.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", *(f"w{i}" for i in range(33))]
    vocab.write_text("".join(piece + "\n" for piece in pieces))
    write_folder(tmp_path / "model", network.state_dict(), network.config, vocab=vocab)
    data.cache_features(network.vision.stem.eval(), model.VISION, files)  # type: ignore[union-attr]

    scoring.score(files, tmp_path / "model", tmp_path / "model", scoring.BEAM, tmp_path / "cached")
    capfilt.run(
        files.pairs("web"),
        tmp_path / "tool",
        captioner=str(tmp_path / "model"),
        filter=str(tmp_path / "model"),
        decoding=scoring.BEAM,
    )
    cached = parquet.read_table(tmp_path / "cached" / scoring.DONE).to_pylist()
    (path,) = (tmp_path / "tool" / "scores").iterdir()
    expected = parquet.read_table(path).to_pylist()
    assert [(row["key"], row["kind"], row["text"]) for row in cached] == [
        (row["key"], row["kind"], row["text"]) for row in expected
    ]
    for key in ("itm", "itc"):
        assert [row[key] for row in cached] == pytest.approx([row[key] for row in expected], abs=0.01)
