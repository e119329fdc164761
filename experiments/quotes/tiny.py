"""Scores of `tiny` for its card and the pages, from `experiments/tiny/results.json`.

Beside them the first `tiny`, `experiments/tiny/first.json`, and the aims. `elsewhere.toml` has figures that were
measured on data outside `../shared`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from experiments.quotes.marks import table
from experiments.quotes.results import MISSING, Results, load, load_toml, shown, value

FOLDER = "experiments/tiny"
PERCENT = "{:.1f} / {:.1f} / {:.1f}"
FLICKR, COCO = "flickr8k-dev", "coco-dev"
SIDES = (("txt", "image to text"), ("img", "text to image"))


class Row(NamedTuple):
    """A row of the card: a measure, the form of its values, their paths in the results, the aim."""

    measure: str
    form: str
    paths: tuple[str, ...]
    aim: str = ""


def recalls(data: str, head: str, side: str) -> tuple[str, ...]:
    return tuple(f"retrieval/{data}/{head}/{side}_r{k}" for k in (1, 5, 10))


def retrieval_rows(name: str, data: str, aims: Mapping[str, str]) -> list[Row]:
    """Rows of both directions, by cosine and re-ranked. aims: by head and side, like "itm128/txt"."""
    return [
        Row(
            f"{name}, {title}, {direction}: R@1 / 5 / 10",
            PERCENT,
            recalls(data, head, side),
            aims.get(f"{head}/{side}", ""),
        )
        for title, head in (("by cosine", "cosine"), ("re-ranked", "itm128"))
        for side, direction in SIDES
    ]


TWO, THREE = "{:.3f}, {:.3f}", "{:.3f}, {:.3f}, {:.3f}"
ROWS = (
    Row("Flickr8k dev: CIDEr, BLEU-4", TWO, (f"captions/{FLICKR}/cider", f"captions/{FLICKR}/bleu4"), "0.58, 0.22"),
    *retrieval_rows("Flickr8k dev", FLICKR, {"itm128/txt": "34 / – / 75", "itm128/img": "27 / – / 71"}),
    Row("COCO dev: CIDEr, BLEU-4", TWO, (f"captions/{COCO}/cider", f"captions/{COCO}/bleu4"), "0.80, 0.25"),
    *retrieval_rows("COCO dev", COCO, {"cosine/txt": "32 / – / 75", "cosine/img": "29 / – / 72"}),
    Row(
        "COCO dev, a true caption against a changed one: ITM, cosine",
        TWO,
        ("changed/mean_of_kinds/itm", "changed/mean_of_kinds/itc"),
        "0.72, –",
    ),
    Row(
        "COCO dev, ITM of true captions against those of other photos: ECE, AUC, accuracy at 0.5",
        THREE,
        tuple(f"calibration/true_against_other/{name}" for name in ("ece", "auc", "accuracy_at_0.5")),
    ),
    Row(
        "COCO dev, ITM of true captions against changed ones: ECE, AUC, accuracy at 0.5",
        THREE,
        tuple(f"calibration/true_against_changed/{name}" for name in ("ece", "auc", "accuracy_at_0.5")),
    ),
    Row("`coco-mini`: names a boxed object", "{:.0%}", ("objects/names_a_boxed_object",), "82 %"),
    Row("`coco-mini`: mean recall of classes", "{:.0%}", ("objects/mean_class_recall",)),
    Row("`coco-mini`: CIDEr, BLEU-4", TWO, ("objects/cider", "objects/bleu4"), "0.65, –"),
    Row("photos per second, beam 3, two cores", "{:.1f}", ("elsewhere/speed",), "25"),
    Row(
        "505 photos of COCO's kind: CIDEr, BLEU-4",
        TWO,
        ("elsewhere/coco505/cider", "elsewhere/coco505/bleu4"),
        "0.80, 0.25",
    ),
    Row("941 SugarCrepe pairs: ITM, cosine", TWO, ("elsewhere/sugarcrepe/itm", "elsewhere/sugarcrepe/itc"), "0.72, –"),
    Row(
        "human judgements of Flickr8k captions, Kendall tau-c: ITM, cosine",
        TWO,
        ("elsewhere/judgements/itm", "elsewhere/judgements/itc"),
        "0.50, –",
    ),
)


@cache
def read(name: str) -> Results:
    results = load(f"{FOLDER}/{name}.json")
    return {**results, "elsewhere": load_toml(f"{FOLDER}/elsewhere.toml").get(results["weights"])}


def results() -> Results:
    """Results of the bundled weights."""
    return read("results")


def first() -> Results:
    """Results of the first `tiny`."""
    return read("first")


def percent(text: str) -> str:
    return text.replace("%", " %")


def scores() -> str:
    """The table of the card."""
    rows = [
        (row.measure, *(percent(shown(r, row.form, *row.paths)) for r in (results(), first())), row.aim) for row in ROWS
    ]
    return table(("measure", "`tiny`", "first `tiny`", "aim"), *rows)


def changed() -> str:
    """Accuracy on true captions against changed ones, by kind of change."""
    kinds = [name for name in results()["changed"] if isinstance(value(results(), f"changed/{name}/pairs"), int)]
    rows = [
        (
            name,
            shown(results(), "{:,}", f"changed/{name}/pairs"),
            *(shown(r, TWO, f"changed/{name}/itm", f"changed/{name}/itc") for r in (results(), first())),
        )
        for name in kinds
    ]
    return table(("changed", "pairs", "ITM, cosine", "first `tiny`"), *rows)


def reliability() -> str:
    """The reliability curve of the match probability: true captions against those of other photos and changed ones."""
    names = ("true_against_other", "true_against_changed")
    bins = [{b["from"]: b for b in value(results(), f"calibration/{name}/reliability") or ()} for name in names]
    rows = [
        (f"{low:.1f} to {low + 0.1:.1f}", *(_bin(curve.get(low)) for curve in bins))
        for low in sorted({low for curve in bins for low in curve})
    ]
    head = "(pairs, mean probability, share of true pairs)"
    return table(("match probability", f"other photos' captions {head}", f"changed captions {head}"), *rows)


def _bin(row: Mapping[str, Any] | None) -> str:
    return MISSING if row is None else f"{row['count']:,}: {row['probability']:.2f}, {row['true']:.2f}"


def classes() -> str:
    """Share of the boxed photos of a class of `coco-mini` whose caption names it; classes in at least 5 photos."""
    now = value(results(), "objects/class_recall") or {}
    chosen = [(name, row) for name, row in now.items() if row["photos"] >= 5]
    rows = [
        (
            name,
            str(row["photos"]),
            f"{row['recall']:.0%}".replace("%", " %"),
            percent(shown(first(), "{:.0%}", f"objects/class_recall/{name}/recall")),
        )
        for name, row in sorted(chosen, key=lambda item: (-item[1]["photos"], item[0]))
    ]
    return table(("class", "photos", "named", "first `tiny`"), *rows)


def measurements() -> str:
    """Rows of `tiny` in the page of measurements."""
    rows = [
        (
            f"{title}: CIDEr, BLEU-4",
            shown(results(), TWO, f"captions/{data}/cider", f"captions/{data}/bleu4"),
            f"`blip eval caption --data {data}-00000.tar`",
        )
        for title, data in (("Flickr8k dev", FLICKR), ("COCO dev", COCO))
    ]
    for side, direction in SIDES:
        rows.append(
            (
                f"Flickr8k dev, {direction}, by cosine: R@1 / 5 / 10 (chance 0.1 / 0.5 / 1)",
                shown(results(), PERCENT, *recalls(FLICKR, "cosine", side)),
                "`blip eval retrieval --data flickr8k-dev-00000.tar --k 0`",
            )
        )
    rows.append(
        (
            "`coco-mini`: captions that name a boxed object",
            percent(shown(results(), "{:.0%}", "objects/names_a_boxed_object")),
            "`python -m experiments.tiny.measure`",
        )
    )
    return table(("measure", "`tiny`", "command"), *rows)


def first_weights() -> str:
    """A note for measurements of the first `tiny` that were not repeated; empty while these are its weights."""
    return "" if results()["weights"] == first()["weights"] else "Measured with the first `tiny`."


def number(form: str, path: str) -> str:
    return percent(shown(results(), form, path))
