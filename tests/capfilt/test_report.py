"""The report: figures equal to those counted by hand; a page that is complete in itself and shows markup as text."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from blip.capfilt.report import report
from blip.capfilt.report.distributions import ITC, ITM
from blip.capfilt.report.summary import Summary
from blip.capfilt.selection import select
from blip_lite.errors import UsageError
from tests.capfilt.score_rows import Row, tar_rows, text_row, write_scores

VOID = {"meta", "img", "br"}
OPTIONAL_END = {"li", "p", "tr", "td", "th", "html", "body", "head"}


class Parsed(HTMLParser):
    """Elements, texts and addresses of a page; fails on an end tag that nothing has opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open[-1] != tag and self._open[-1] in OPTIONAL_END:
            self._open.pop()
        assert self._open and self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def scored(tmp_path: Path, *files: list[Row], settings: dict[str, Any] | None = None) -> Path:
    folder = write_scores(tmp_path / "out", *files)
    (folder / "settings.json").write_text(json.dumps(settings or {"seed": 7, "captioner": {"name": "tiny"}}))
    return folder


def page_of(folder: Path) -> Parsed:
    return Parsed((folder / "report.html").read_text(encoding="utf-8"))


def error_row(key: str, reason: str | None) -> Row:
    return {"key": key, "shard": "photos", "image": f"{key}.jpg", "error": reason}


FILES = [
    [
        text_row("a", "web", "a red dog", 0.9),
        text_row("a", "synthetic", "a dog", 0.8),
        text_row("b", "web", "buy now", 0.1),
        text_row("b", "synthetic", "a dog", 0.5),
        error_row("x", "truncated after 17 bytes"),
    ],
    [
        text_row("a", "web", "the sea", 0.3),  # a key is unique in its shard, not in the data
        text_row("a", "synthetic", "a dog", 0.2),
        text_row("c", "human", "my cat", None),
        text_row("c", "synthetic", "a cat", 0.7),
        error_row("y", "truncated after 4 bytes"),
        error_row("z", "not an image"),
        error_row("w", None),
    ],
]


def test_counts_of_texts_images_and_errors(tmp_path: Path) -> None:
    summary = report(scored(tmp_path, *FILES))
    assert [(k.kind, k.texts, k.kept, k.distinct, k.distinct_kept) for k in summary.kinds] == [
        ("human", 1, 1, 1, 1),
        ("web", 3, 1, 3, 1),
        ("synthetic", 4, 3, 2, 2),
    ]
    images = summary.images
    assert (images.total, images.with_texts, images.without_texts, images.errors) == (8, 4, 1, 3)
    assert images.by_kept == {("web", "synthetic"): 1, ("synthetic",): 1, ("human", "synthetic"): 1, (): 1}
    assert summary.errors == [("truncated after N bytes", 2), ("not an image", 1)]
    assert [(t.text, t.count, t.kept) for t in summary.frequent] == [("a dog", 3, 2)]


def test_diversity_counts_words_and_pairs_of_words(tmp_path: Path) -> None:
    texts = ["A dog's ball, a ball!", "a ball", "", "Ünï"]  # a, dog's, ball, a, ball; a, ball; none; ünï
    rows = [text_row(str(i), "web", text, 0.9 if i < 2 else 0.1) for i, text in enumerate(texts)]
    every, kept = report(scored(tmp_path, rows)).diversity
    assert (every.texts, every.words, every.vocabulary, every.bigrams, every.distinct_bigrams) == (4, 8, 4, 5, 4)
    assert (kept.texts, kept.words, kept.vocabulary, kept.bigrams, kept.distinct_bigrams) == (2, 7, 3, 5, 4)


@pytest.mark.parametrize(
    ("options", "limits", "kept"),
    [
        ({}, (0.5, 0.5), {"web": 1, "synthetic": 3}),
        ({"threshold": 0.3}, (0.3, 0.3), {"web": 2, "synthetic": 3}),
        ({"threshold_web": 0.1, "threshold_synthetic": 0.75}, (0.1, 0.75), {"web": 3, "synthetic": 1}),
        ({"threshold": "50%"}, (0.3, 0.7), {"web": 2, "synthetic": 2}),  # 2 of 3 web texts, 2 of 4 synthetic ones
        ({"score": "itc", "threshold": 0.25}, (0.25, 0.25), {"web": 1, "synthetic": 3}),  # ITC is half of ITM here
    ],
)
def test_thresholds_are_those_of_a_selection(
    tmp_path: Path, options: dict[str, Any], limits: tuple[float, float], kept: dict[str, int]
) -> None:
    summary = report(scored(tmp_path, *FILES), **options)
    assert tuple(summary.thresholds.values()) == pytest.approx(limits)
    assert {k.kind: k.kept for k in summary.kinds if k.kind != "human"} == kept


def test_a_score_that_is_not_a_number_is_dropped(tmp_path: Path) -> None:
    rows = [text_row("a", "web", "t", math.nan), text_row("b", "web", "t", None), text_row("c", "web", "t", 0.6)]
    summary = report(scored(tmp_path, rows))
    assert summary.kinds[0].kept == 1
    assert [sum(h.kept) + sum(h.dropped) for h in summary.histograms] == [1, 1]


def test_histograms_count_every_text_in_the_bin_of_its_score(tmp_path: Path) -> None:
    summary = report(scored(tmp_path, *FILES))
    itm_web, itm_synthetic, itc_web, _ = summary.histograms
    assert (itm_web.kind, itm_synthetic.kind) == ("web", "synthetic") and itm_web.axis is ITM and itc_web.axis is ITC
    assert itm_web.first == itm_synthetic.first == math.floor(3 * math.log(0.1 / 0.9))
    for histogram, scores in ((itm_web, (0.1, 0.3, 0.9)), (itc_web, (0.05, 0.15, 0.45))):
        counts = Counter({histogram.first + i: n for i, n in enumerate(histogram.dropped) if n})
        counts.update({histogram.first + i: n for i, n in enumerate(histogram.kept) if n})
        assert counts == Counter(math.floor(histogram.axis.position(score)) for score in scores)
    assert sum(itm_web.kept) == 1 and sum(itm_synthetic.kept) == 3


def test_positions_and_edges_of_an_axis_are_inverse_and_bounded() -> None:
    for axis in (ITM, ITC):
        assert axis.edge(axis.position(0.37)) == pytest.approx(0.37)
    assert ITM.position(0.5) == 0
    assert ITM.position(1) == -ITM.position(0) == 24
    assert ITM.position(1e-30) == -24


TRUE = [0.9, 0.8, 0.5, 0.2]
FALSE = [0.6, 0.5, 0.1]


def with_truth(tmp_path: Path, true: Any = True, false: Any = False, **options: Any) -> Summary:
    """A report on four true and three false web texts, and one that is neither."""
    rows = [text_row(f"t{i}", "web", "text", score, label=true) for i, score in enumerate(TRUE)]
    rows += [text_row(f"f{i}", "web", "text", score, label=false) for i, score in enumerate(FALSE)]
    rows += [text_row("u", "web", "text", 0.9, label=None), text_row("u", "synthetic", "text", 0.1, label=true)]
    return report(scored(tmp_path, rows), truth_column="label", **options)


@pytest.mark.parametrize(("true", "false"), [(True, False), (1, 0), ("yes", "No"), (" True", "FALSE"), (1.0, 0.0)])
def test_precision_recall_and_auc(tmp_path: Path, true: Any, false: Any) -> None:
    truth = with_truth(tmp_path, true, false).truth
    assert truth is not None and truth.unknown == 1
    result = truth.result
    assert (result.true_kept, result.false_kept, result.true_dropped, result.false_dropped) == (3, 2, 1, 1)
    assert (result.precision, result.recall, result.f1, result.kept) == (3 / 5, 3 / 4, 6 / 9, 5 / 7)
    # pairs of a true and a false text in the right order: 3 + 3 + 1 + one tie + 1
    assert [s.auc for s in truth.separations] == pytest.approx([8.5 / 12] * 2)
    by_threshold = {point.threshold: point for point in truth.others}
    assert (by_threshold[0.6].precision, by_threshold[0.6].recall) == (2 / 3, 2 / 4)
    assert by_threshold[0.95].kept == 0 and math.isnan(by_threshold[0.95].precision)


def test_the_curve_has_a_point_at_each_bin_and_ends_where_all_are_dropped(tmp_path: Path) -> None:
    truth = with_truth(tmp_path).truth
    assert truth is not None
    for separation in truth.separations:
        points = list(separation.points())
        assert points[0].kept == 1 and points[0].precision == 4 / 7
        assert points[-1].true_kept == 1 and points[-1].false_kept == 0
        assert [p.kept for p in points] == sorted((p.kept for p in points), reverse=True)


def test_a_truth_of_one_value_has_no_auc(tmp_path: Path) -> None:
    truth = with_truth(tmp_path, True, True).truth
    assert truth is not None and all(math.isnan(s.auc) for s in truth.separations)
    assert "AUC –" in page_of(tmp_path / "out").text


def test_a_truth_column_must_exist_and_be_true_or_false(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="truth column 'nope': not in the score files; copied columns are label"):
        report(scored(tmp_path, [text_row("a", "web", "text", 0.5, label=True)]), truth_column="nope")
    with pytest.raises(UsageError, match="truth column 'label': value 'maybe'; must be one of true, 1"):
        with_truth(tmp_path, false="maybe", true="true")
    with pytest.raises(UsageError, match="copied columns do not exist; 'blip capfilt run --copy-column NAME'"):
        report(scored(tmp_path / "plain", *FILES), truth_column="label")
    assert not (tmp_path / "plain" / "out" / "report.html").exists()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A tar of nine images."""
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(9):
            data = io.BytesIO()
            Image.new("RGB", (600, 400), (20 * i, 90, 120)).save(data, "JPEG")
            info = tarfile.TarInfo(f"{i:03}.jpg")
            info.size = data.tell()
            data.seek(0)
            tar.addfile(info, data)
    return path


def test_examples_are_kept_near_and_dropped_texts_with_their_images(tmp_path: Path, shard: Path) -> None:
    scores = [0.01, 0.02, 0.03, 0.45, 0.5, 0.54, 0.97, 0.98, 0.99]
    rows = tar_rows(shard, [("web", f"web {score}", score) for score in scores])
    rows += [row | {"kind": "synthetic", "text": "a wall", "itm": 0.6, "itc": 0.3} for row in rows]
    folder = scored(tmp_path, rows)
    summary = report(folder, examples=3)
    texts = {group: [e.chosen.text for e in summary.examples["web", group]] for group in ("kept", "near", "dropped")}
    assert texts["near"] == ["web 0.54", "web 0.5", "web 0.45"]
    assert len(texts["kept"]) == 3 and {"web 0.5", "web 0.54", "web 0.97", "web 0.98", "web 0.99"} >= set(texts["kept"])
    assert len(texts["dropped"]) == 3 and {"web 0.01", "web 0.02", "web 0.03", "web 0.45"} >= set(texts["dropped"])
    near = summary.examples["web", "near"][0]
    assert [(text.kind, text.text, text.kept) for text in near.others] == [("synthetic", "a wall", True)]
    assert report(folder, examples=3).examples == summary.examples
    page = page_of(folder)
    assert page.tags["img"] == 3 * 5  # no synthetic text is dropped
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert report(folder, examples=0).examples["web", "kept"] == [] and page_of(folder).tags["img"] == 0


def test_images_that_are_missing_or_changed_are_left_out_with_a_note(tmp_path: Path, shard: Path) -> None:
    folder = scored(tmp_path, tar_rows(shard, [("web", f"text {i}", i / 10) for i in range(9)]))
    data = bytearray(shard.read_bytes())
    data[data.index(b"008.jpg") + 512 + 300] ^= 255  # the ninth image
    shard.write_bytes(data)
    report(folder, examples=9)
    page = page_of(folder)
    assert "1 of 9 images cannot be read, such as" in page.text and "has changed since it was scored" in page.text
    missing = [row | {"shard": str(tmp_path / "moved.tar")} for row in tar_rows(shard, [("web", "text", 0.7)] * 9)]
    report(scored(tmp_path / "moved", missing))
    page = page_of(tmp_path / "moved" / "out")
    assert "6 of 6 images cannot be read, such as" in page.text and "moved.tar" in page.text
    assert page.tags["img"] == 0 and page.text.count("text") > 6


def test_the_page_is_complete_in_itself_and_shows_markup_as_text(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script></title></style>\"'><img src=http://x/y onerror=alert(1)>&amp;"
    scores = [(kind, 0.4 + i / 10) for i in range(4) for kind in ("web", "synthetic")]
    rows = [text_row("a", kind, attack, score, label=score > 0.55) for kind, score in scores]
    rows = [row | {"key": attack, "shard": attack, "image": attack, "url": attack} for row in rows]
    rows.append(error_row(attack, attack))
    folder = scored(tmp_path, rows, settings={attack: [attack], "nested": {attack: attack}})
    report(folder, truth_column="label")
    source = (folder / "report.html").read_text()
    page = page_of(folder)
    assert page.tags["script"] == page.tags["img"] == page.tags["link"] == 0 and page.tags["style"] == 1
    assert page.addresses == [] and "@import" not in source and "url(" not in source and "<img" not in source
    assert page.text.count(attack) > 10  # texts, the error, the settings
    assert ["web", "4", "3", "1", "75.0 %"] in page.rows
    assert page.tags["svg"] == 6 and "prefers-color-scheme: dark" in source and "width=device-width" in source


def test_tables_of_the_page_show_the_figures(tmp_path: Path) -> None:
    folder = scored(tmp_path, *FILES, settings={"seed": 7, "captioner": {"name": "tiny"}, "data": list(range(12))})
    report(folder)
    rows = page_of(folder).rows
    for row in (
        ["human", "1", "1", "0", "100.0 %"],
        ["synthetic", "4", "3", "1", "75.0 %"],
        ["none", "1", "12.5 %"],
        ["image without texts", "1", "12.5 %"],
        ["image with an error", "3", "37.5 %"],
        ["a dog", "3", "66.7 %"],
        ["truncated after N bytes", "2"],
        ["captioner.name", "tiny"],
        ["data", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (12 in all)"],
    ):
        assert row in rows, row
    assert ["seed", "7"] in rows


def test_a_selection_in_the_folder_is_shown_by_rule(tmp_path: Path, shard: Path) -> None:
    rows = tar_rows(shard, [("web", "one text", i / 10) for i in range(9)])
    folder = scored(tmp_path, [*rows, error_row("x", "not an image")])
    assert report(folder).selection is None and "Selection in this folder" not in page_of(folder).text
    select(folder, threshold=0.3, max_repeats=4, limit=3)
    report(folder, threshold=0.5)
    page = page_of(folder)
    assert "--threshold 0.3 --max-repeats 4 --limit 3" in page.text
    at = page.rows.index(["texts", "web", "images"])
    assert page.rows[at + 1 : at + 8] == [
        ["all", "9", "10"],
        ["not scored", "–", "1"],
        ["dropped: threshold", "3", "–"],
        ["dropped: repeated", "2", "–"],
        ["dropped: limit", "1", "1"],
        ["dropped: no text left", "–", "5"],
        ["kept", "3", "3"],
    ]
    (folder / "selection.json").write_text('{"texts": 1}')
    with pytest.raises(UsageError, match=r"selection\.json: not a selection of 'blip capfilt select'; remove it"):
        report(folder)


def test_long_texts_are_shortened_in_examples(tmp_path: Path) -> None:
    report(scored(tmp_path, [text_row("a", "web", "x" * 5000, 0.9)]))
    assert "x" * 300 + "…" in page_of(tmp_path / "out").text and "x" * 301 not in page_of(tmp_path / "out").text


def test_precision_and_recall_are_on_the_page(tmp_path: Path) -> None:
    with_truth(tmp_path)
    page = page_of(tmp_path / "out")
    assert ["0.5", "0.600", "0.750", "0.667", "71.4 %"] in page.rows and ["true", "3", "1"] in page.rows
    assert "Threshold on ITM: AUC 0.708" in page.text and "It is empty for 1." in page.text


@pytest.mark.parametrize("rows", [[], [error_row("a", "not an image")], [text_row("a", "human", "my cat", None)]])
def test_data_without_scores_have_a_report(tmp_path: Path, rows: list[Row]) -> None:
    folder = scored(tmp_path, rows)
    summary = report(folder)
    assert summary.histograms == [] and summary.images.total == len(rows)
    assert page_of(folder).tags["svg"] == 0


def test_shards_that_are_not_scored_yet_are_counted(tmp_path: Path) -> None:
    folder = scored(tmp_path, *FILES)
    units = [{"name": name, "source": f"{name}.tar", "size": 0} for name in ("00000", "00001", "00002")]
    (folder / "units.jsonl").write_text("".join(json.dumps(unit) + "\n" for unit in units))
    assert report(folder).missing_shards == 1
    assert "1 shard is not scored yet" in page_of(folder).text


def test_images_inside_a_table_are_read_from_the_column_of_the_run(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (60, 40), (20, 90, 120)).save(data, "PNG")
    table = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"first": [b"none"] * 3, "second": [data.getvalue()] * 3}), table)
    rows = [text_row(str(i), "web", "text", i / 4, shard=str(table), image=None, row=i, sha256=None) for i in (3, 1, 2)]
    folder = scored(tmp_path, rows, settings={"columns": {"image": "second"}, "roots": []})
    (folder / "units.jsonl").write_text(json.dumps({"name": "00000", "source": str(table), "size": 0}) + "\n")
    report(folder)
    assert page_of(folder).tags["img"] == 6 and "cannot be read" not in page_of(folder).text


def test_several_folders_are_one_report(tmp_path: Path) -> None:
    folders = [scored(tmp_path / name, rows) for name, rows in zip("ab", FILES, strict=True)]
    assert report(folders).images.total == 8
    page = page_of(folders[0])
    assert page.rows.count(["seed", "7"]) == 2 and not (folders[1] / "report.html").exists()
