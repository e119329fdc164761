"""Rules of a selection: which texts and images each keeps, and what it counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from blip.capfilt.database import Database
from blip.capfilt.decide import Counts, Decision
from blip.capfilt.record import score_files
from blip.capfilt.rules import Rules, Threshold, parse_threshold
from blip_lite.errors import UsageError
from tests.capfilt.score_rows import Row, text_row, write_scores

ALL = {"web": Threshold(0), "synthetic": Threshold(0)}
WEB_0, WEB_5, WEB_7 = text_row("a", "web", "w0", 0.1), text_row("b", "web", "w5", 0.5), text_row("c", "web", "w7", 0.7)


def decide(tmp_path: Path, *files: Sequence[Row], threads: int = 1, **rules: Any) -> tuple[list[str], Counts]:
    """Return the kept texts in order, and the counts."""
    folder = write_scores(tmp_path / "out", *files)
    (tmp_path / "work").mkdir()
    with Database(tmp_path / "work", score_files(folder), memory="300MB", threads=threads) as database:
        counts = Decision(database, Rules(**rules)).counts
        query = (
            f"SELECT text FROM (SELECT *, file_index AS file, file_row_number AS number FROM {database.relation}) "
            "JOIN (SELECT file, row AS number FROM kept) USING (file, number) ORDER BY file, number"
        )
        return [text for (text,) in database.rows(query)], counts


def test_a_threshold_keeps_scores_of_at_least_its_value_and_all_human_texts(tmp_path: Path) -> None:
    rows = [WEB_0, WEB_5, WEB_7, text_row("c", "synthetic", "s2", 0.2), text_row("d", "human", "h", None)]
    kept, counts = decide(tmp_path, rows)
    assert kept == ["w5", "w7", "h"]
    assert counts.scored == Counter(web=3, synthetic=1, human=1) and counts.kept == Counter(web=2, human=1)
    assert counts.dropped["threshold"] == Counter(web=1, synthetic=1)
    assert (counts.images, counts.kept_images, counts.dropped_images["no text left"]) == (4, 3, 1)


def test_web_and_synthetic_texts_have_their_own_thresholds(tmp_path: Path) -> None:
    rows = [WEB_5, WEB_7, text_row("b", "synthetic", "s5", 0.5), text_row("c", "synthetic", "s7", 0.7)]
    kept, _ = decide(tmp_path, rows, web=Threshold(0.6), synthetic=Threshold(0.5))
    assert kept == ["w7", "s5", "s7"]


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 0.9])
def test_a_threshold_is_compared_in_the_precision_of_the_scores(tmp_path: Path, value: float) -> None:
    kept, _ = decide(tmp_path, [text_row("a", "web", "equal", value), WEB_0], web=Threshold(value))
    assert "equal" in kept  # 0.7 in 32 bits is below 0.7 in 64 bits


def test_a_share_keeps_the_best_texts_of_each_kind(tmp_path: Path) -> None:
    web = [text_row(f"k{i}", "web", f"w{i}", i / 1000) for i in range(10)]
    rows = [row for i in range(10) for row in (web[i], text_row(f"k{i}", "synthetic", f"s{i}", 0.9 + i / 1000))]
    kept, counts = decide(tmp_path, rows, web=Threshold(0.3, True), synthetic=Threshold(0.05, True))
    assert kept == ["w7", "w8", "w9", "s9"] and counts.kept == Counter(web=3, synthetic=1)


def test_a_share_is_of_the_texts_that_the_condition_allows(tmp_path: Path) -> None:
    rows = [text_row(f"k{i}", "web", f"w{i}", i / 10, width=i) for i in range(10)]
    kept, counts = decide(tmp_path, rows, web=Threshold(0.5, True), where="width < 4")
    assert kept == ["w2", "w3"] and counts.dropped["where"] == Counter(web=6)


def test_texts_without_a_finite_score_are_dropped(tmp_path: Path) -> None:
    rows = [WEB_5, text_row("n", "web", "nan", float("nan")), {**WEB_7, "itm": None}]
    kept, counts = decide(tmp_path, rows, **ALL)
    assert kept == ["w5"] and counts.dropped["threshold"] == Counter(web=2)


def test_the_score_may_be_the_cosine(tmp_path: Path) -> None:
    kept, _ = decide(tmp_path, [{**WEB_7, "itc": 0.2}, {**WEB_5, "itc": 0.4}], score="itc", web=Threshold(0.3))
    assert kept == ["w5"]


def test_a_condition_applies_to_scored_texts_and_sees_every_column(tmp_path: Path) -> None:
    rows = [
        text_row("a", "web", "wide", 0.9, width=512, language="en"),
        text_row("b", "web", "narrow", 0.9, width=100, language="en"),
        text_row("c", "web", "german", 0.9, width=512, language="de"),
        text_row("d", "web", "unknown", 0.9, language="en"),  # the condition is null
        text_row("e", "human", "human", None, width=100, language="de"),
    ]
    kept, counts = decide(tmp_path, rows, where="width >= 256 and language = 'en' -- large ones")
    assert kept == ["wide", "human"] and counts.dropped["where"] == Counter(web=3)


def test_texts_of_an_image_that_differ_in_case_spaces_and_punctuation_are_kept_once(tmp_path: Path) -> None:
    rows = [
        text_row("a", "web", "A dog, on  grass.", 0.6),
        text_row("a", "synthetic", "a dog on grass", 0.8),
        text_row("a", "synthetic", "a cat", 0.7),
        text_row("b", "web", "a dog on grass", 0.6),
        text_row("c", "human", "A dog", None),
        text_row("c", "synthetic", "a dog", 0.9),
        text_row("d", "web", "Ein Hund.", 0.6),
        text_row("d", "synthetic", "EIN HÜND", 0.6),
    ]
    kept, counts = decide(tmp_path, rows)
    assert kept == ["a dog on grass", "a cat", "a dog on grass", "A dog", "Ein Hund.", "EIN HÜND"]
    assert counts.dropped["same text"] == Counter(web=1, synthetic=1)


def test_one_text_or_one_of_each_kind_is_kept_of_an_image(tmp_path: Path) -> None:
    scores = {("a", "web"): (0.6, 0.8), ("a", "synthetic"): (0.9, 0.7), ("b", "web"): (0.6, 0.6)}
    rows = [text_row(k, kind, f"{k} {kind} {i}", s) for (k, kind), pair in scores.items() for i, s in enumerate(pair)]
    rows.append(text_row("b", "human", "b human", None))
    best, counts = decide(tmp_path, rows, keep="best")
    assert best == ["a synthetic 0", "b web 0", "b human"]  # of equal scores the first; human texts beside it
    assert counts.dropped["not the best"] == Counter(web=3, synthetic=1)
    (tmp_path / "2").mkdir()
    kinds, _ = decide(tmp_path / "2", rows, keep="best-per-kind")
    assert kinds == ["a web 1", "a synthetic 0", "b web 0", "b human"]


@pytest.mark.parametrize(("rule", "column", "name"), [("url", "url", "same url"), ("bytes", "sha256", "same bytes")])
def test_of_images_with_one_url_or_the_same_bytes_the_best_is_kept(
    tmp_path: Path, rule: Any, column: str, name: str
) -> None:
    rows = [
        text_row("a", "web", "a", 0.6, **{column: "x"}),
        text_row("b", "web", "b", 0.9, **{column: "x"}),
        text_row("b", "synthetic", "b2", 0.6, **{column: "x"}),
        text_row("c", "web", "c", 0.5, **{column: "y"}),
        text_row("n", "web", "n", 0.5),
        text_row("m", "web", "m", 0.5),  # missing values are not equal
    ]
    more = [text_row("d", "human", "h1", None, **{column: "y"}), text_row("e", "human", "h2", None, **{column: "y"})]
    kept, counts = decide(tmp_path, rows, more, drop_duplicates=(rule,))
    assert kept == ["b", "b2", "n", "m", "h1", "h2"]  # human pairs displace others, and are all kept
    assert counts.dropped_images[name] == 2 and counts.dropped[name] == Counter(web=2)


def test_images_whose_hashes_differ_in_two_bits_are_near_identical(tmp_path: Path) -> None:
    base = 0xF0F0_1234_ABCD_5678
    hashes = {"best": base, "same": base, "two": base ^ (1 << 63) ^ 1, "three": base ^ 7, "far": base ^ (0xFF << 20)}
    rows = [text_row(k, "web", k, 0.9 - i / 10, phash=value) for i, (k, value) in enumerate(hashes.items())]
    kept, counts = decide(tmp_path, [*rows, text_row("none", "web", "none", 0.5)], drop_duplicates=("near",))
    assert kept == ["best", "three", "far", "none"] and counts.dropped_images["near-identical"] == 2


def test_near_identical_images_equal_those_of_a_comparison_of_all_pairs(tmp_path: Path) -> None:
    rng = random.Random(0)
    hashes = [rng.getrandbits(64) for _ in range(40)]
    for _ in range(400):
        value = rng.choice(hashes)
        for _ in range(rng.randint(0, 4)):
            value ^= 1 << rng.randrange(64)
        hashes.append(value)
    scores = [rng.random() for _ in hashes]
    rows = [text_row(f"k{i}", "web", f"k{i}", s, phash=h) for i, (s, h) in enumerate(zip(scores, hashes, strict=True))]
    order = sorted(range(len(rows)), key=lambda i: (-scores[i], i))
    place = {i: n for n, i in enumerate(order)}
    expected = [
        f"k{i}"
        for i in range(len(rows))
        if not any(place[j] < place[i] and (hashes[i] ^ hashes[j]).bit_count() <= 2 for j in range(len(rows)))
    ]
    kept, _ = decide(tmp_path, rows[:200], rows[200:], drop_duplicates=("near",), **ALL)
    assert kept == expected and 40 <= len(kept) < len(rows)


def test_a_text_is_kept_for_its_best_images(tmp_path: Path) -> None:
    scores = [0.6, 0.9, 0.7, 0.8]
    rows = [text_row(f"k{i}", "web", f"Image {i % 1}", s, url=str(i)) for i, s in enumerate(scores)]
    rows += [text_row("o", "web", "other", 0.5), text_row("h", "human", "image 0", None)]
    kept, counts = decide(tmp_path, rows, max_repeats=3)
    assert kept == ["Image 0", "Image 0", "other", "image 0"] and counts.dropped["repeated"] == Counter(web=2)


def test_a_limit_draws_images_by_seed_with_all_their_texts_and_human_ones_first(tmp_path: Path) -> None:
    rows = [text_row(f"k{i:02}", kind, f"{kind} {i}", 0.9) for i in range(30) for kind in ("web", "synthetic")]
    human = [text_row("h", "human", "h1", None), text_row("h", "human", "h2", None)]
    kept, counts = decide(tmp_path, rows, human, limit=6, seed=1)
    assert len(kept) == 12 and kept[-2:] == ["h1", "h2"] and counts.kept_images == 6
    assert counts.dropped_images["limit"] == 25
    (tmp_path / "2").mkdir()
    other, _ = decide(tmp_path / "2", rows, human, limit=6, seed=2)
    assert other != kept and len(other) == 12


def test_results_do_not_depend_on_threads(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [
        text_row(f"k{i}", kind, f"t{rng.randrange(300)}", round(rng.random(), 1), phash=i * i % 4001)
        for i in range(2000)
        for kind in ("web", "synthetic")
    ]
    rules: dict[str, Any] = {"keep": "best-per-kind", "drop_duplicates": ("near",), "max_repeats": 3, "limit": 100}
    results = []
    for threads in (1, 4):
        folder = tmp_path / str(threads)
        folder.mkdir()
        results.append(decide(folder, rows[:1500], rows[1500:], threads=threads, **rules))
    assert results[0] == results[1] and len(results[0][0]) >= 50


def test_failed_images_are_counted_by_reason(tmp_path: Path) -> None:
    bad = [{"key": f"b{i}", "shard": "s", "error": f"truncated at {i}" if i < 2 else None} for i in range(3)]
    _, counts = decide(tmp_path, [WEB_5, *bad])
    assert counts.failed == Counter({"truncated at N": 2, "no text": 1})
    assert (counts.rows, counts.images, counts.kept_images) == (4, 4, 1)


def test_one_key_in_two_score_files_is_two_images(tmp_path: Path) -> None:
    _, counts = decide(tmp_path, [WEB_5], [WEB_5], keep="best")
    assert counts.kept_images == 2


def test_without_a_text_that_passes_the_highest_scores_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no text passes; highest itm: web 0\.5$"):
        decide(tmp_path, [WEB_0, WEB_5], web=Threshold(0.9))


def test_scores_without_the_requested_column_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text passes; highest itc: none, no text has this score"):
        decide(tmp_path, [{**WEB_5, "itc": None}], score="itc")


@pytest.mark.parametrize("value", ["0%", "101%", "-0.1", "1.1", "x", "nan", "%", ""])
def test_a_threshold_is_a_score_or_a_share(value: str) -> None:
    with pytest.raises(UsageError, match=r"must be a number from 0 to 1, or a share such as 30% to keep"):
        parse_threshold(value, "itm")


def test_a_threshold_of_cosines_may_be_negative() -> None:
    assert parse_threshold("-0.5", "itc") == Threshold(-0.5)
    assert parse_threshold("12.5%", "itc") == Threshold(0.125, True)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keep": "some"}, "keep some; must be one of all, best, best-per-kind"),
        ({"score": "cosine"}, "score cosine; must be one of itm, itc"),
        ({"drop_duplicates": ("url", "look")}, "drop_duplicates look; must be one of url, bytes, near"),
        ({"limit": 0}, "limit 0; must be an integer of at least 1"),
        ({"max_repeats": -1}, "max_repeats -1; must be an integer of at least 1"),
    ],
)
def test_invalid_rules_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Rules(**rules)
    assert str(error.value) == message
