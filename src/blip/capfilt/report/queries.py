"""Figures of the report, aggregated in DuckDB: of the rows themselves only a few examples are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blip.capfilt.database import Database
from blip.capfilt.record import COLUMNS, HUMAN, KINDS, SYNTHETIC, WEB
from blip_lite.errors import UsageError

TRUE, FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")  # values of a truth column, in any case
FREQUENT = 20  # texts, and reasons of errors
SAMPLE = 100_000  # texts per kind whose words are counted: shares of distinct n-grams fall with the number of texts
WORDS = r"regexp_extract_all(lower(text), '[\p{L}\p{N}]+(?:''\p{L}+)?')"
PLACE = "hash(shard, key, kind, index)"  # an order that depends on nothing but the names


@dataclass(frozen=True)
class KindCounts:
    """Texts of a kind, and the different ones among them; all, and those that are kept."""

    kind: str
    texts: int
    kept: int
    distinct: int
    distinct_kept: int


@dataclass(frozen=True)
class ImageCounts:
    """Images of the data: with texts, without any, not readable; and by the kinds of texts that they keep."""

    with_texts: int
    without_texts: int
    errors: int
    by_kept: Mapping[tuple[str, ...], int]  # kinds with a kept text, () if none is kept

    @property
    def total(self) -> int:
        return self.with_texts + self.without_texts + self.errors


@dataclass(frozen=True)
class FrequentText:
    """A text and the number of images that have it."""

    text: str
    count: int
    kept: int


@dataclass(frozen=True)
class Diversity:
    """Variety of the texts of a kind, or of those that are kept. Words of `counted` texts, at most `SAMPLE`."""

    kind: str
    kept_only: bool
    texts: int
    distinct_texts: int
    counted: int
    words: int
    vocabulary: int
    bigrams: int
    distinct_bigrams: int


def create_view(db: Database, score: str, thresholds: Mapping[str, float], truth_column: str | None = None) -> None:
    """Create the view `texts`: the columns of the score files with `kept` and `truth`, NULL if unknown.

    A text is kept if it is human, or if its score is at least the threshold of its kind, in float32 as in a selection.
    """
    at_least = " ".join(f"WHEN '{kind}' THEN {score} >= {value!r}::FLOAT" for kind, value in thresholds.items())
    kept = f"coalesce(kind = '{HUMAN}' OR isfinite({score}) AND CASE kind {at_least} END, false)"
    truth = "NULL::BOOLEAN" if truth_column is None else _truth(db, truth_column)
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    columns = f"{names}, file_index, {kept} AS kept, {truth} AS truth"
    db.execute(f"CREATE TEMP VIEW texts AS SELECT {columns} FROM {db.relation}")


def _truth(db: Database, column: str) -> str:
    """Return the SQL of a copied column as true, false or NULL. Raises `UsageError` for other values."""
    copied = [name for name in db.columns if name not in COLUMNS and not name.startswith("file_")]
    if column not in copied:
        have = f"are {', '.join(copied)}" if copied else "do not exist"
        hint = "" if copied else "; 'blip capfilt run --copy-column NAME' copies one"
        raise UsageError(f"truth column '{column}': not in the score files; copied columns {have}{hint}")
    value = f"""nullif(lower(trim("{column.replace('"', '""')}"::VARCHAR)), '')"""
    truth = f"CASE WHEN {value} IN {TRUE} THEN true WHEN {value} IN {FALSE} THEN false END"
    wrong = db.value(
        f"SELECT {value} FROM {db.relation} WHERE kind = '{WEB}' AND {value} NOT IN {TRUE + FALSE} LIMIT 1"
    )
    if wrong is not None:
        raise UsageError(f"truth column '{column}': value '{wrong}'; must be one of {', '.join(TRUE + FALSE)}")
    return truth


def group_texts(db: Database) -> None:
    """Create the table `distinct_texts`. It holds hashes: the texts of 100 million rows would fill the memory."""
    db.execute(
        """CREATE TEMP TABLE distinct_texts AS
        SELECT kind, hash(text) AS text_hash, count(*) AS n, count(*) FILTER (kept) AS kept
        FROM texts WHERE kind IS NOT NULL GROUP BY kind, hash(text)"""
    )


def count_kinds(db: Database) -> list[KindCounts]:
    """Return the counts of each kind in the data, in the order of `KINDS`."""
    rows = db.rows(
        "SELECT kind, sum(n), sum(kept), count(*), count(*) FILTER (kept > 0) FROM distinct_texts GROUP BY kind"
    )
    counts = {kind: KindCounts(kind, *map(int, numbers)) for kind, *numbers in rows}
    return [counts[kind] for kind in KINDS if kind in counts]


def frequent_texts(db: Database, kind: str = SYNTHETIC) -> list[FrequentText]:
    """Return the most frequent texts of a kind; those that occur once are left out."""
    rows = db.rows(
        f"""WITH top AS (
            SELECT text_hash FROM distinct_texts WHERE kind = $1 AND n > 1 ORDER BY n DESC, text_hash LIMIT {FREQUENT}
        )
        SELECT text, count(*) AS n, count(*) FILTER (kept) FROM texts
        WHERE kind = $1 AND hash(text) IN (FROM top) GROUP BY text ORDER BY n DESC, text""",
        [kind],
    )
    return [FrequentText(*row) for row in rows]


def count_images(db: Database) -> ImageCounts:
    """Return the number of images with texts, without texts and with an error."""
    without, errors = db.rows(
        "SELECT count(*) FILTER (error IS NULL), count(*) FILTER (error IS NOT NULL) FROM texts WHERE kind IS NULL"
    )[0]
    flags = ", ".join(f"bool_or(kept AND kind = '{kind}') AS {kind}" for kind in KINDS)
    rows = db.rows(
        f"""SELECT {", ".join(KINDS)}, count(*)
        FROM (SELECT {flags} FROM texts WHERE kind IS NOT NULL GROUP BY file_index, key) GROUP BY ALL"""
    )
    by_kept = {tuple(k for k, kept in zip(KINDS, row, strict=False) if kept): int(row[-1]) for row in rows}
    return ImageCounts(sum(by_kept.values()), without, errors, dict(sorted(by_kept.items(), key=lambda item: -item[1])))


def count_errors(db: Database) -> list[tuple[str, int]]:
    """Return the most frequent reasons and their counts; numbers in a reason are replaced by N."""
    rows = db.rows(
        rf"""SELECT regexp_replace(error, '\d[\d,.]*', 'N', 'g') AS reason, count(*) AS n FROM texts
        WHERE kind IS NULL AND error IS NOT NULL GROUP BY reason ORDER BY n DESC, reason LIMIT {FREQUENT}"""
    )
    return [(reason, count) for reason, count in rows]


def measure_diversity(db: Database, counts: KindCounts, *, kept_only: bool) -> Diversity:
    """Return the variety of words; words are runs of letters and digits in lower case, as in "dog's"."""
    row = db.rows(
        f"""WITH sample AS MATERIALIZED (
            SELECT {WORDS} AS words FROM texts WHERE kind = $1 AND (kept OR NOT $2) ORDER BY {PLACE} LIMIT {SAMPLE}
        ),
        unigrams AS (SELECT unnest(words) AS gram FROM sample),
        bigrams AS (SELECT unnest(list_zip(words[:-2], words[2:])) AS gram FROM sample WHERE len(words) > 1)
        SELECT (SELECT count(*) FROM sample), u.n, u.distinct_n, b.n, b.distinct_n
        FROM (SELECT count(*) AS n, count(DISTINCT gram) AS distinct_n FROM unigrams) AS u,
            (SELECT count(*) AS n, count(DISTINCT gram) AS distinct_n FROM bigrams) AS b""",
        [counts.kind, kept_only],
    )[0]
    texts = (counts.kept, counts.distinct_kept) if kept_only else (counts.texts, counts.distinct)
    return Diversity(counts.kind, kept_only, *texts, *row)
