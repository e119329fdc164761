"""Distributions of ITM and ITC over bins, and how well each separates true web texts from false ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blip.capfilt.database import Database
from blip.capfilt.record import WEB

LOGIT_LIMIT, BINS_PER_LOGIT = 8, 3
ITC_STEP = 0.02
THRESHOLDS = {  # of the table, by score
    "itm": (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
    "itc": tuple(i / 20 for i in range(-4, 20)),
}


@dataclass(frozen=True)
class Axis:
    """Scale on which a score is binned: ITM by its logit, as most values are close to 0 or 1; ITC as it is stored."""

    score: str
    bin_sql: str  # number of a row's bin; a bin includes its lower edge

    def edge(self, position: float) -> float:
        """Return the score at a position in bins: the lower edge of bin 3 is `edge(3)`."""
        if self.score == "itc":
            return position * ITC_STEP
        return 1 / (1 + math.exp(-position / BINS_PER_LOGIT))

    def position(self, score: float) -> float:
        """Return the position of a score in bins; the inverse of `edge`, within the limits of the axis."""
        if self.score == "itc":
            return score / ITC_STEP
        limit = LOGIT_LIMIT * BINS_PER_LOGIT
        if not 0 < score < 1:
            return limit if score >= 1 else -limit
        return min(max(math.log(score / (1 - score)) * BINS_PER_LOGIT, -limit), limit)


_CLIPPED = "least(greatest(itm::DOUBLE, 1e-9), 1 - 1e-9)"
_LOGIT = f"least(greatest(ln({_CLIPPED} / (1 - {_CLIPPED})), -{LOGIT_LIMIT}), {LOGIT_LIMIT} - 1e-9)"
ITM = Axis("itm", f"floor({_LOGIT} * {BINS_PER_LOGIT})::INTEGER")
ITC = Axis("itc", f"floor(itc::DOUBLE / {ITC_STEP})::INTEGER")


@dataclass(frozen=True)
class Histogram:
    """Number of kept and dropped texts of a kind per bin, from the bin `first`."""

    axis: Axis
    kind: str
    first: int
    kept: Sequence[int]
    dropped: Sequence[int]

    @property
    def highest_share(self) -> float:
        """Share of the texts in the fullest bin."""
        counts = [k + d for k, d in zip(self.kept, self.dropped, strict=True)]
        return max(counts) / sum(counts)


@dataclass(frozen=True)
class Point:
    """Result of a threshold: texts with a score of at least `threshold` are kept."""

    threshold: float
    true_kept: int
    false_kept: int
    true_dropped: int
    false_dropped: int

    @property
    def kept(self) -> float:
        """Share of texts kept."""
        return _ratio(self.true_kept + self.false_kept, self.true_dropped + self.false_dropped)

    @property
    def precision(self) -> float:
        """Share of the kept texts that are true; NaN if none is kept."""
        return _ratio(self.true_kept, self.false_kept)

    @property
    def recall(self) -> float:
        """Share of the true texts that are kept; NaN if none is true."""
        return _ratio(self.true_kept, self.true_dropped)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.true_kept, self.false_kept + self.true_dropped)


@dataclass(frozen=True)
class Separation:
    """Separation of true web texts from false ones by a score: counts per bin from `first`, and the exact AUC.

    The AUC is the probability that a true text has the higher score than a false one, ties counted half; NaN if all
    texts are true or all are false.
    """

    axis: Axis
    first: int
    true: Sequence[int]
    false: Sequence[int]
    auc: float

    def points(self) -> Iterator[Point]:
        """Yield the results of a threshold at the lower edge of each bin, in ascending order."""
        true_dropped = false_dropped = 0
        true, false = sum(self.true), sum(self.false)
        for number, (t, f) in enumerate(zip(self.true, self.false, strict=True), self.first):
            yield Point(self.axis.edge(number), true - true_dropped, false - false_dropped, true_dropped, false_dropped)
            true_dropped, false_dropped = true_dropped + t, false_dropped + f


@dataclass(frozen=True)
class Truth:
    """Comparison with a column that tells which web texts are true. Texts without a score count as dropped."""

    column: str
    unknown: int  # web texts for which the column is empty
    result: Point  # of the threshold in use
    others: Sequence[Point]  # of other thresholds, in ascending order
    separations: Sequence[Separation]  # of ITM and ITC


def histograms(db: Database, axis: Axis) -> list[Histogram]:
    """Return a histogram of each kind that has scores; both have the same bins."""
    rows = db.rows(
        f"""SELECT kind, {axis.bin_sql} AS bin, count(*) FILTER (kept), count(*) FILTER (NOT kept) FROM texts
        WHERE kind IS NOT NULL AND isfinite({axis.score}) GROUP BY kind, bin ORDER BY kind DESC"""
    )
    first, size = _bin_range([row[1] for row in rows])
    counts = {row[0]: ([0] * size, [0] * size) for row in rows}
    for kind, number, kept, dropped in rows:
        counts[kind][0][number - first], counts[kind][1][number - first] = kept, dropped
    return [Histogram(axis, kind, first, *both) for kind, both in counts.items()]


def compare_with_truth(db: Database, column: str, score: str, threshold: float) -> Truth:
    """Compare web texts with the column `truth` of the view; `column` is its name in the score files."""
    unknown = db.value(f"SELECT count(*) FROM texts WHERE kind = '{WEB}' AND truth IS NULL")
    points = {point.threshold: point for point in _points(db, score, sorted({threshold, *THRESHOLDS[score]}))}
    others = [points[value] for value in THRESHOLDS[score]]
    return Truth(column, unknown, points[threshold], others, [_separation(db, axis) for axis in (ITM, ITC)])


def _points(db: Database, score: str, thresholds: Sequence[float]) -> list[Point]:
    """Return the results of thresholds in ascending order."""
    reached = " ".join(f"WHEN {score} >= {thresholds[i]!r}::FLOAT THEN {i}" for i in reversed(range(len(thresholds))))
    rows = db.rows(
        f"""SELECT CASE WHEN isfinite({score}) THEN CASE {reached} END END AS highest,
            count(*) FILTER (truth), count(*) FILTER (NOT truth)
        FROM texts WHERE kind = '{WEB}' GROUP BY highest"""
    )
    true, false = sum(row[1] for row in rows), sum(row[2] for row in rows)
    points = []
    for i, threshold in enumerate(thresholds):
        t, f = (sum(row[n] for row in rows if row[0] is not None and row[0] >= i) for n in (1, 2))
        points.append(Point(threshold, t, f, true - t, false - f))
    return points


def _separation(db: Database, axis: Axis) -> Separation:
    labelled = f"FROM texts WHERE kind = '{WEB}' AND truth IS NOT NULL AND isfinite({axis.score})"
    rows = db.rows(
        f"SELECT {axis.bin_sql} AS bin, count(*) FILTER (truth), count(*) FILTER (NOT truth) {labelled} GROUP BY bin"
    )
    first, size = _bin_range([row[0] for row in rows])
    true, false = [0] * size, [0] * size
    for number, t, f in rows:
        true[number - first], false[number - first] = t, f
    auc = db.value(
        f"""WITH by_score AS (
            SELECT {axis.score} AS score, count(*) FILTER (truth) AS t, count(*) FILTER (NOT truth) AS f {labelled}
            GROUP BY score
        ),
        ranked AS (SELECT t, f, sum(f) OVER (ORDER BY score) - f AS lower FROM by_score)
        SELECT sum(t * (lower + f / 2)) / nullif(sum(t)::DOUBLE * sum(f)::DOUBLE, 0) FROM ranked"""
    )
    return Separation(axis, first, true, false, math.nan if auc is None else float(auc))


def _bin_range(bins: Sequence[int]) -> tuple[int, int]:
    """Return the first bin and the number of bins up to the last."""
    return (min(bins), max(bins) - min(bins) + 1) if bins else (0, 0)


def _ratio(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else math.nan
