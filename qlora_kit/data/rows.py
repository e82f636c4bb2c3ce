"""Raw rows from JSONL, JSON, CSV and Parquet files, each with its number."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import renew_pyarrow, write_text

HALF_EMOJI = re.compile("[\ud800-\udfff]")  # of an emoji
_SHOWN = 200  # problems listed in a message; all of them are in DataError.problems


@dataclass(frozen=True)
class Problem:
    """Why one row cannot be used."""

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


class DataError(KitError):
    """Data that cannot be trained on; problems holds every bad row."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()):
        lines = [message, *(f"  {problem}" for problem in problems[:_SHOWN])]
        if len(problems) > _SHOWN:
            lines.append(f"  ... and {len(problems) - _SHOWN} more")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)


class BadRowError(Exception):
    """A row that cannot be used; says why."""


def require_usable(path: Path, usable: int, problems: list[Problem]) -> None:
    """Refuse a file with bad rows, or without any.

    Args:
        path: the file.
        usable: how many of its rows are good.
        problems: what is wrong with the others.

    Raises:
        DataError: it names every bad row.
    """
    if problems:
        problems.sort(key=lambda problem: problem.row)
        total = usable + len(problems)
        raise DataError(f"{path}: {len(problems)} of {total} rows cannot be used.", problems)
    if not usable:
        raise DataError(f"{path} is empty: there are no rows in it.")


def rows_of(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The raw rows of a file with their numbers.

    Args:
        path: a .jsonl, .json, .csv, .tsv or .parquet file; any other ending is read as JSONL.
        problems: what is not even a row is added to it.

    Raises:
        DataError: a file that cannot be read at all.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a .jsonl, .json, .csv, .tsv or .parquet file.")
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
            return
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as problem:
        raise DataError(f"There is no file {path}.") from problem
    except UnicodeDecodeError as problem:
        raise DataError(
            f"{path} is not UTF-8 text (byte {problem.start} is not): a binary file, or an old "
            "encoding. Convert it with 'iconv -t UTF-8'."
        ) from problem
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    if "\0" in text:
        raise DataError(f"{path} is a binary file, not text.")
    if suffix in (".csv", ".tsv"):
        yield from _csv_rows(path, text, problems, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".json":
        yield from _json_rows(path, text, problems)
    else:
        yield from _jsonl_rows(path, text, problems)


def _jsonl_rows(
    path: Path, text: str, problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as problem:
            column = getattr(problem, "colno", None)
            where = f" at column {column}" if column else ""
            problems.append(Problem(path.name, number, f"not valid JSON{where}: {problem}"))
        else:
            yield from _usable(path, number, row, problems)


def _json_rows(
    path: Path, text: str, problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(text, object_pairs_hook=_object) if text.strip() else []
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{path} is not valid JSON: {problem}") from problem
    if not isinstance(rows, list):
        raise DataError(f"{path} must hold a list of rows; for one row a line use .jsonl.")
    for number, row in enumerate(rows, 1):
        yield from _usable(path, number, row, problems)


class _Twice(dict[str, Any]):
    """An object that names a field twice, itself or in one of its turns; JSON keeps the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        return _Twice(field=next(name for name in names if names.count(name) > 1))
    for value in row.values():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, _Twice):
                return inner
    return row


def _usable(
    path: Path, number: int, row: Any, problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(row, _Twice):
        reason = f"the field {row['field']!r} stands twice, and only one of them could be read"
        problems.append(Problem(path.name, number, reason))
    elif isinstance(row, dict):
        yield number, row
    else:
        problems.append(Problem(path.name, number, "not a JSON object ({...})"))


def _csv_rows(
    path: Path, text: str, problems: list[Problem], delimiter: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(10**9)  # the default refuses a cell of 131,072 characters
    # Strict, or one unclosed quote makes a single answer of all the rows that follow.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number, line = 0, 1
    try:
        names = list(reader.fieldnames or ())
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise DataError(f"{path} has two columns named {twice[0]!r}; rename one of them.")
        line = reader.line_num + 1
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                problems.append(Problem(path.name, number, "more or fewer cells than the header"))
            else:
                yield number, dict(row)
            line = reader.line_num + 1
    except csv.Error as problem:
        raise DataError(
            f"{path}, row {number + 1} (from line {line}): not valid CSV: {problem}. A quote that "
            "opens a cell must close it; inside, a quote is written twice."
        ) from problem


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    renew_pyarrow()
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (FileNotFoundError, PermissionError):
        raise
    # Damaged bytes end in almost any error: of Arrow, of text, of dates, of sizes.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as problem:
        raise DataError(f"{path} is not a readable Parquet file: {problem}") from problem
    yield from enumerate(rows, 1)


def write_jsonl(rows: Iterable[dict[str, Any]], path: str | Path) -> Path:
    """Write rows as JSONL, whole or not at all.

    Args:
        rows: plain data; what JSON does not know, such as a date, is written as text.
        path: the file; its folder is made where there is none.

    Returns:
        The file.

    Raises:
        DataError: it cannot be written; what stood there is as it was.
    """
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{as_line(row)}\n" for row in rows))
    except OSError as problem:
        reason = problem.strerror or problem
        raise DataError(f"{path} could not be written: {reason}. Nothing was changed.") from problem
    return path


def as_line(value: Any) -> str:
    """JSON in one line; half an emoji, which no file can hold, stays escaped.

    Args:
        value: plain data.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    return HALF_EMOJI.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
