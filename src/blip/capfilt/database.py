"""A DuckDB database over score files, in a folder of its own: what exceeds the memory limit is stored there."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blip.capfilt.record import COLUMNS, SCHEMA
from blip.capfilt.rules import Threshold
from blip.io.disk import writing
from blip.io.extras import require_extras
from blip_lite.errors import EnvironmentProblem, UsageError


class Database:
    """Connection to a new database in `folder`; `files` are the score files in the order of the selection.

    `relation` is the SQL of all their rows: the columns, `file_index` (from 0, by `files`) and `file_row_number`.
    """

    def __init__(self, folder: Path, files: Sequence[Path], *, memory: str, threads: int | None = None) -> None:
        require_extras("reading scores", "capfilt")
        import duckdb

        self.files = [str(file) for file in files]
        self.relation = self.scores(0, len(files) - 1)
        self._memory = memory
        with writing(folder):
            self.connection = duckdb.connect(folder / "work.duckdb")
        with contextlib.suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets, which has no such bar
            self.connection.execute("SET enable_progress_bar = false")
        self.connection.execute("SET preserve_insertion_order = false")
        self.connection.execute(f"SET temp_directory = {quote(str(folder / 'spill'))}")
        if threads is not None:
            self.connection.execute(f"SET threads = {threads}")
        try:
            self.connection.execute("SET memory_limit = ?", [memory])
        except duckdb.Error:
            raise UsageError(f"memory {memory}; must be a size such as 500MB or 8GB") from None
        self._require_schema()
        self.columns = tuple(row[0] for row in self.rows(f"DESCRIBE SELECT * FROM {self.relation}"))
        if missing := [name for name in COLUMNS if name not in self.columns]:
            raise UsageError(f"{self.files[0]}: has no column {', '.join(missing)}; score it again")

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def execute(self, query: str, *, condition: str | None = None) -> None:
        """Run a statement, which may contain a condition of the user. Failures are errors of one line."""
        with self._errors(condition):
            self.connection.execute(query)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._errors():
            return self.connection.execute(query, values).fetchall()

    def value(self, query: str, values: Sequence[Any] = ()) -> Any:  # Any: the type of the query
        """Return the first value of the first row of a query, None without rows."""
        rows = self.rows(query, values)
        return rows[0][0] if rows else None

    def arrow(self, query: str) -> Any:  # Any: pyarrow has no types
        """Return the result of a query as an Arrow table."""
        with self._errors():
            return self.connection.sql(query).to_arrow_table()

    def scores(self, first: int, last: int) -> str:
        """Return the SQL of the rows of some score files, by their numbers."""
        names = ", ".join(map(quote, self.files[first : last + 1]))
        return f"read_parquet([{names}], union_by_name = true)"

    def sizes(self) -> list[int]:
        """Return the number of rows of each score file."""
        sizes = dict(self.rows("SELECT file_name, num_rows FROM parquet_file_metadata($1)", [self.files]))
        return [sizes[file] for file in self.files]

    def require_condition(self, condition: str) -> None:
        """Raise `UsageError` unless a condition is one SQL expression on the columns, true or false for a row."""
        import duckdb

        try:
            duckdb.SQLExpression(condition)
            self.connection.execute(f"SELECT * FROM {self.relation} WHERE ({condition}\n) LIMIT 0")
            kind = self.connection.execute(f"DESCRIBE SELECT ({condition}\n) FROM {self.relation}").fetchall()[0][1]
        except duckdb.Error as error:
            raise self._condition_error(condition, error) from error
        if kind != "BOOLEAN":
            raise self._condition_error(condition, ValueError(f"a value of type {kind}, not true or false"))

    def _condition_error(self, condition: str, error: Exception) -> UsageError:
        """Return the error of a condition that cannot be evaluated."""
        names = ", ".join(name for name in self.columns if not name.startswith("file_"))
        return UsageError(f"where '{condition}': {_reason(error)}; columns are {names}")

    def _require_schema(self) -> None:
        """Raise `UsageError` for the first file that is not a readable score file of this version."""
        query = (
            "SELECT file_name, max(decode(value)) FILTER (decode(key) = 'schema') "
            "FROM parquet_kv_metadata($1) GROUP BY file_name"
        )
        schemas = dict(self.rows(query, [self.files]))
        for file in self.files:
            if schemas.get(file) != SCHEMA:
                raise UsageError(f"{file}: not a score file of 'blip capfilt run' (schema {schemas.get(file)})")

    @contextlib.contextmanager
    def _errors(self, condition: str | None = None) -> Iterator[None]:
        import duckdb

        try:
            with writing("the folder of temporary files"):
                yield
        except duckdb.OutOfMemoryException as error:
            if "temp_directory_size" in str(error):
                raise EnvironmentProblem(f"no space left for temporary data ({_reason(error)})") from error
            raise EnvironmentProblem(f"memory {self._memory} is too little ({_reason(error)}); allow more") from error
        except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException) as error:
            if condition is None:
                raise UsageError(f"score files cannot be read ({_reason(error)})") from error
            raise self._condition_error(condition, error) from error
        except duckdb.IOException as error:
            raise UsageError(f"score files cannot be read ({_reason(error)})") from error


def quote(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _reason(error: Exception) -> str:
    """Return the first line of a message of DuckDB, without its kind."""
    first = str(error).split("\n", 1)[0]
    return re.sub(r"^[A-Z]\w*(?: \w+)* Error: ", "", first)[:200].rstrip("!.")


def lowest_kept(db: Database, table: str, kind: str, score: str, threshold: Threshold) -> float:
    """Return the lowest score of a kind that is kept; for a share, the score of the last text of the best ones."""
    if not threshold.is_share:
        return threshold.value
    scores = f"FROM {table} WHERE kind = '{kind}' AND isfinite({score})"
    count = math.ceil(db.value(f"SELECT count(*) {scores}") * threshold.value)
    lowest = db.value(f"SELECT {score} {scores} ORDER BY {score} DESC LIMIT 1 OFFSET {max(count - 1, 0)}")
    return 1.0 if lowest is None else float(lowest)
