"""What the audit finds, and the rows that it looks at, also those that training would refuse."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import Messages, read_messages

# Each kind, in the order of the report, and what a cleaned copy does about it.
KINDS = {
    "exact_duplicate": "keeps the first",
    "near_duplicate": "keeps the first that has no other flaw; all, where only the order differs",
    "test_leak": "drops",
    "contradiction": "drops all of them: nobody has said which is right; keeps near questions",
    "personal_data": "masks",
    "empty_answer": "drops",
    "truncated_answer": "drops",
    "boilerplate_answer": "drops; keeps one of an answer to many questions, and what says more",
    "unsafe_phrase": "drops",
    "imbalance": "keeps",
    "skew": "keeps",
    "language_outlier": "keeps",
    "length_outlier": "keeps",
}
REPEATS = ("exact_duplicate", "near_duplicate")
_BLANK = "\N{SYMBOL FOR NULL}"  # stands in for an absent answer while a row is read


def named_rows(numbers: Sequence[int], most: int) -> str:
    """Rows for people: "rows 1, 2, 3 and 4 more".

    Args:
        numbers: of the rows.
        most: that are named.
    """
    shown = ", ".join(map(str, numbers[:most]))
    more = f" and {len(numbers) - most:,} more" if len(numbers) > most else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{more}"


@dataclass(frozen=True)
class Finding:
    """One flaw.

    Args:
        kind: one of `KINDS`.
        rows: row numbers from 1, in order; in JSONL, the lines.
        reason: for people; it never repeats personal data.
        drop: the rows that a cleaned copy leaves out.
    """

    kind: str
    rows: tuple[int, ...]
    reason: str
    drop: tuple[int, ...] = ()


@dataclass(frozen=True)
class Audit:
    """All findings about a file."""

    file: Path
    rows: int
    findings: tuple[Finding, ...]
    test: Path | None = None
    test_rows: int = 0

    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind that was found, in the report's order."""
        counts = Counter(finding.kind for finding in self.findings)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    def of(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind.

        Args:
            kind: one of `KINDS`.
        """
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def as_json(self) -> dict[str, Any]:
        """The audit as plain data."""
        return {
            "file": str(self.file),
            "rows": self.rows,
            "test": str(self.test) if self.test else None,
            "test_rows": self.test_rows,
            "counts": self.counts(),
            "findings": [
                {"kind": each.kind, "rows": list(each.rows), "reason": each.reason}
                for each in self.findings
            ],
        }


@dataclass(frozen=True)
class Row:
    """One row as the audit sees it.

    Args:
        number: from 1; in JSONL, the line.
        system: the system prompt, or "".
        question: everything said before the last answer.
        answer: the last answer, "" when there is none.
        raw: the row as it stands in the file.
        turns: each turn of the user with the answer to it; the last answer is `answer`.
    """

    number: int
    system: str
    question: str
    answer: str
    raw: dict[str, Any]
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """What the assistant says, turn by turn."""
        return tuple(answer for _, answer in self.turns) or (self.answer,)


def read_rows(
    path: str | Path, prompt_field: str | None = None, completion_field: str | None = None
) -> list[Row]:
    """Read what `data.read` reads, and also rows whose answer is empty or absent.

    Args:
        path: a .jsonl, .json, .csv, .tsv or .parquet file.
        prompt_field, completion_field: the columns of question and answer.

    Returns:
        The rows, in file order.

    Raises:
        DataError: unreadable, empty, or with rows that are wrong in another way.
    """
    rows = read_messages(path, prompt_field, completion_field, _BLANK)
    return [row_of(number, messages, raw) for number, messages, raw in rows]


def row_of(number: int, messages: Messages, raw: dict[str, Any] | None = None) -> Row:
    """A conversation as a row of the audit.

    Args:
        number: from 1; in JSONL, the line.
        messages: roles in turn, the assistant last.
        raw: the row as it stands in the file.
    """
    texts = ["" if turn["content"] == _BLANK else turn["content"] for turn in messages]
    first = 1 if messages[0]["role"] == "system" else 0
    answers = [place for place, turn in enumerate(messages) if turn["role"] == "assistant"]
    return Row(
        number,
        system=texts[0] if first else "",
        question="\n".join(texts[first:-1]),
        answer=texts[-1],
        raw=raw or {},
        turns=tuple((texts[place - 1], texts[place]) for place in answers),
    )
