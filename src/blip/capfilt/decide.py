"""Apply the rules of a selection in a database: one statement per rule, each of which writes the texts that remain.

Results depend on the score files and rules only: every choice is by score, then by order (file, row), so threads,
memory and earlier runs do not change them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from blip.capfilt.database import Database, lowest_kept, quote
from blip.capfilt.record import HUMAN, KINDS, SYNTHETIC, WEB
from blip.capfilt.rules import Duplicate, Rules
from blip_lite.errors import UsageError

MAX_REASONS = 50  # of failed images, listed by number
_SPACE_AND_PUNCTUATION = " \t\n\r\u00a0.,:;!?'\"`()[]{}<>*#~_-/\\|"
# order in which texts and images are preferred
_TEXT_ORDER = "kind = 'human' DESC, score DESC, file, row"
_IMAGE_ORDER = "human DESC, score DESC, file, row"
_NEAR_BITS = 2
# Two hashes that differ in at most 2 bits agree in at least two of their four blocks of 16 bits.
_NEAR_MASKS = [sum(0xFFFF << 16 * block for block in pair) for pair in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))]
_DUPLICATES: dict[Duplicate, str] = {"url": "same url", "bytes": "same bytes", "near": "near-identical"}


@dataclass(kw_only=True)
class Counts:
    """Numbers of texts by kind, and of images; `dropped` is by the first rule that drops them."""

    rows: int = 0
    images: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # images without a text, by reason, with N for numbers
    scored: Counter[str] = field(default_factory=Counter)  # texts by kind; human ones have no score
    kept: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)  # by rule, then kind
    kept_images: int = 0
    dropped_images: Counter[str] = field(default_factory=Counter)


class Decision:
    """The kept texts, in the table `kept` (file, row), and the counts."""

    def __init__(self, database: Database, rules: Rules) -> None:
        self._database, self._rules = database, rules
        self.counts = Counts()
        self.thresholds: dict[str, float | None] = {WEB: None, SYNTHETIC: None}
        self._stages, self._remaining = 0, Counter[str]()
        self._read()
        self._apply_thresholds()
        self._choose_texts()
        self._drop_duplicate_images()
        self._limit()
        self._finish()

    def _read(self) -> None:
        """Write the texts with what the rules need: numbers and hashes."""
        rules, database, counts = self._rules, self._database, self.counts
        columns = {
            "file": "file_index::INTEGER",
            "row": "file_row_number",
            "image": "hash(key)",  # within its file
            "kind": f"kind::ENUM{KINDS}",  # a byte per row
            "score": f"CASE WHEN isfinite({rules.score}) THEN {rules.score} END",
            "text": f"hash(translate(lower(text), {quote(_SPACE_AND_PUNCTUATION)}, ''))",
        }
        if rules.where is not None:
            columns["allowed"] = f"(kind = 'human' OR coalesce(({rules.where}\n), false))"
        for name in rules.drop_duplicates:
            columns[name] = {"url": "hash(url)", "bytes": "hash(sha256)", "near": "phash"}[name]
            if name != "near":  # the hash of a missing value is not missing
                columns[name] = f"CASE WHEN {'url' if name == 'url' else 'sha256'} IS NOT NULL THEN {columns[name]} END"
        if rules.limit is not None:  # a stable function, other than hash()
            columns["draw"] = f"md5_number_lower(concat({rules.seed}, '/', key))"
        listed = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
        self._write(f"SELECT {listed} FROM {database.relation} WHERE kind IS NOT NULL", rules.where)
        counts.rows = database.value(f"SELECT count(*) FROM {database.relation}")
        reasons = database.rows(
            rf"SELECT regexp_replace(coalesce(error, 'no text'), '\d[\d,.]*', 'N', 'g') AS reason, count(*) AS n "
            f"FROM {database.relation} WHERE kind IS NULL GROUP BY reason ORDER BY n DESC, reason"
        )
        counts.failed.update(dict(reasons[:MAX_REASONS]))
        if rest := sum(number for _, number in reasons[MAX_REASONS:]):
            counts.failed["other reasons"] = rest
        counts.scored.update(self._remaining)
        counts.images = database.value(f"SELECT count(*) FROM (SELECT DISTINCT file, image FROM {self._table})")
        counts.images += sum(counts.failed.values())
        if rules.where is not None:
            self._stage("where", f"SELECT * EXCLUDE (allowed) FROM {self._table} WHERE allowed")

    def _apply_thresholds(self) -> None:
        score = self._rules.score
        for kind, threshold in ((WEB, self._rules.web), (SYNTHETIC, self._rules.synthetic)):
            self.thresholds[kind] = lowest_kept(self._database, self._table, kind, "score", threshold)
        cases = " ".join(f"WHEN '{kind}' THEN {value!r}::FLOAT" for kind, value in self.thresholds.items())
        passing = f"kind = 'human' OR score >= CASE kind {cases} END"  # in float32, like the scores
        if not self._database.value(f"SELECT count(*) FROM {self._table} WHERE {passing}"):
            best = self._database.rows(f"SELECT kind, max(score) FROM {self._table} GROUP BY kind ORDER BY kind")
            highest = ", ".join(f"{kind} {value:.4g}" for kind, value in best if value is not None)
            raise UsageError(f"no text passes; highest {score}: {highest or 'none, no text has this score'}")
        self._stage("threshold", f"SELECT * FROM {self._table} WHERE {passing}")

    def _choose_texts(self) -> None:
        """Drop equal texts of an image, those that `keep` leaves out, and texts that too many images have."""
        rules, best = self._rules, f"row_number() OVER (PARTITION BY {{}} ORDER BY {_TEXT_ORDER})"
        query = "SELECT * FROM {} QUALIFY kind = 'human' OR {} <= {}"
        self._stage("same text", query.format(self._table, best.format("file, image, text"), 1))
        if rules.keep != "all":
            group = "file, image, kind" if rules.keep == "best-per-kind" else "file, image, kind = 'human'"
            self._stage("not the best", query.format(self._table, best.format(group), 1))
        if rules.max_repeats is not None:
            self._stage("repeated", query.format(self._table, best.format("text"), rules.max_repeats))

    def _drop_duplicate_images(self) -> None:
        for name in self._rules.drop_duplicates:
            images = self._images(f"min({name}) AS value")
            dropped = self._near_identical(images) if name == "near" else _worse("value", f"({images})")
            self._drop_images(_DUPLICATES[name], dropped)

    def _near_identical(self, images: str) -> str:
        """Return the images whose hash is nearly that of a better image: equal ones first, then 1 to 2 bits apart."""
        database = self._database
        database.execute(f"CREATE OR REPLACE TABLE images AS {images}")
        database.execute(
            f"CREATE OR REPLACE TABLE hashes AS SELECT value, row_number() OVER (ORDER BY {_IMAGE_ORDER}) AS rank FROM "
            f"(FROM images QUALIFY row_number() OVER (PARTITION BY value ORDER BY {_IMAGE_ORDER}) = 1) "
            "WHERE value IS NOT NULL"
        )
        database.execute("CREATE OR REPLACE TABLE near (value UBIGINT)")
        for mask in _NEAR_MASKS:
            database.execute(
                "INSERT INTO near SELECT DISTINCT b.value FROM hashes a JOIN hashes b "
                f"ON a.value & {mask}::UBIGINT = b.value & {mask}::UBIGINT "
                f"WHERE a.rank < b.rank AND bit_count(xor(a.value, b.value)) <= {_NEAR_BITS}"
            )
        near = "SELECT file, image FROM images WHERE NOT human AND value IN (FROM near)"
        return f"{near} UNION {_worse('value', 'images')}"

    def _limit(self) -> None:
        limit = self._rules.limit
        if limit is not None:
            order = "human DESC, draw, file, row"
            images = self._images("min(draw) AS draw")
            self._drop_images("limit", f"SELECT file, image FROM ({images}) ORDER BY {order} OFFSET {limit}")

    def _finish(self) -> None:
        database, counts = self._database, self.counts
        counts.kept.update(self._remaining)
        counts.kept_images = database.value(f"SELECT count(*) FROM (SELECT DISTINCT file, image FROM {self._table})")
        counted = counts.kept_images + sum(counts.dropped_images.values()) + sum(counts.failed.values())
        counts.dropped_images["no text left"] = counts.images - counted
        database.execute(f"CREATE TABLE kept AS SELECT file, row FROM {self._table} ORDER BY file, row")
        database.execute(f"DROP TABLE {self._table}")

    @property
    def _table(self) -> str:
        """The table of the texts that remain."""
        return f"texts{self._stages}"

    def _write(self, query: str, condition: str | None = None) -> None:
        """Replace the table of the texts that remain."""
        self._database.execute(f"CREATE TABLE texts{self._stages + 1} AS {query}", condition=condition)
        self._database.execute(f"DROP TABLE IF EXISTS {self._table}")
        self._stages += 1
        self._remaining = Counter(dict(self._database.rows(f"SELECT kind, count(*) FROM {self._table} GROUP BY kind")))

    def _stage(self, rule: str, query: str) -> None:
        """Apply a rule to the texts, and count those that it drops."""
        before = self._remaining
        self._write(query)
        self.counts.dropped[rule] = before - self._remaining

    def _drop_images(self, rule: str, query: str) -> None:
        """Drop images (file, image) and their texts, and count them."""
        self._database.execute(f"CREATE OR REPLACE TABLE dropped AS {query}")
        self.counts.dropped_images[rule] = self._database.value("SELECT count(*) FROM dropped")
        self._stage(rule, f"SELECT * FROM {self._table} ANTI JOIN dropped USING (file, image)")

    def _images(self, column: str) -> str:
        """Return the query of the images of the texts that remain."""
        return (
            f"SELECT file, image, bool_or(kind = '{HUMAN}') AS human, max(score) AS score, min(row) AS row, {column} "
            f"FROM {self._table} GROUP BY file, image"
        )


def _worse(column: str, images: str) -> str:
    """Return the query of images for which a better one has the same value."""
    ranked = f"SELECT *, row_number() OVER (PARTITION BY {column} ORDER BY {_IMAGE_ORDER}) AS place FROM {images}"
    return f"SELECT file, image FROM ({ranked} WHERE {column} IS NOT NULL) WHERE place > 1 AND NOT human"
