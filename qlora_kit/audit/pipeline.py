"""The data audit: everything that is wrong with a set, row by row, and a copy without it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..data import DataError, as_line, rows_of, write_jsonl
from .answers import answer_findings
from .duplicates import duplicate_findings
from .findings import KINDS, REPEATS, Audit, Finding, Row, read_rows
from .label_skew import label_findings
from .outliers import outlier_findings
from .personal_data import find_personal_data, mask_personal_data
from .similarity import split_words


@dataclass(frozen=True)
class Cleaned:
    """What a cleaned copy left out and changed, row by row.

    Args:
        path: the copy.
        log: beside it, one JSON line for each dropped or masked row.
        kept: rows in the copy.
        dropped: why each row was left out, by row number.
        masked: what was masked, by row number, in rows that were kept.
    """

    path: Path
    log: Path
    kept: int
    dropped: dict[int, tuple[str, str]]
    masked: dict[int, str]

    def as_json(self) -> dict[str, Any]:
        """The account as plain data."""
        dropped = [
            {"row": row, "kind": kind, "reason": reason}
            for row, (kind, reason) in self.dropped.items()
        ]
        masked = [{"row": row, "reason": reason} for row, reason in self.masked.items()]
        files = {"path": str(self.path), "log": str(self.log)}
        return files | {"kept": self.kept, "dropped": dropped, "masked": masked}

    def changes(self) -> list[dict[str, Any]]:
        """What was done to each row that is not in the copy as it was, in their order."""
        changes = {
            row: {"row": row, "done": "dropped", "kind": kind, "reason": reason}
            for row, (kind, reason) in self.dropped.items()
        }
        for row, reason in self.masked.items():
            changes[row] = {"row": row, "done": "masked", "kind": "personal_data", "reason": reason}
        return [changes[row] for row in sorted(changes)]


def audit(
    data: str | Path,
    test: str | Path | None = None,
    prompt_field: str | None = None,
    completion_field: str | None = None,
    never: Sequence[str] = (),
) -> Audit:
    """Look for what makes a fine-tuned model worse, or its score a lie.

    Args:
        data: the training set, any file that `data.read` reads.
        test: the held-out set, to find what of it training would know.
        prompt_field, completion_field: the columns of question and answer.
        never: words and phrases that no answer may hold, whatever their case.

    Returns:
        The findings, by kind in the order of `findings.KINDS`, then by row.

    Raises:
        DataError: a file that cannot be read, or with rows that are no conversations.
    """
    data = Path(data).expanduser()
    rows = read_rows(data, prompt_field, completion_field)
    held_out: list[Row] = []
    if test is not None:
        test = Path(test).expanduser()
        if test.exists() and data.exists() and test.samefile(data):
            raise DataError(f"{test} is the training set itself; --test names the held-out set.")
        held_out = read_rows(test, prompt_field, completion_field)
    findings = [*duplicate_findings(rows, held_out), *answer_findings(rows), *_personal_data(rows)]
    findings += _unsafe(rows, never)
    empty = {row for each in findings if each.kind == "empty_answer" for row in each.rows}
    answered = [row for row in rows if row.number not in empty]
    findings += [*outlier_findings(answered), *label_findings(answered)]
    order = list(KINDS)
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.rows))
    return Audit(data, len(rows), tuple(findings), test, len(held_out))


def _unsafe(rows: Sequence[Row], never: Sequence[str]) -> Iterator[Finding]:
    """Answers with what the house never says, as whole words."""
    phrases = {one: " ".join(split_words(one)) for one in never if one.strip()}
    for row in rows if phrases else ():
        answers = "".join(f" {' '.join(split_words(text))} " for text in row.answers)
        matches = [one for one, words in phrases.items() if f" {words} " in answers]
        if matches:
            reason = f"the answer says {', '.join(map(repr, matches))}"
            yield Finding("unsafe_phrase", (row.number,), reason, (row.number,))


def _personal_data(rows: Sequence[Row]) -> Iterator[Finding]:
    for row in rows:
        # All turns but the last answer are in the question.
        parts = {"system prompt": row.system, "question": row.question, "answer": row.answer}
        places = [
            f"{span.what} in the {part}"
            for part, text in parts.items()
            for span in find_personal_data(text)
        ]
        if places:
            yield Finding("personal_data", (row.number,), ", ".join(dict.fromkeys(places)))


def clean(report: Audit, output: str | Path) -> Cleaned:
    """Write a copy without the flaws that need no judgment, and say what was left out.

    Leaves out what the test knows, contradicting answers to one question, answers that are
    empty, truncated, boilerplate or unsafe, and of the rest repeated rows but the first; masks
    personal data in all text. What only a person can tell stays: uneven labels, outliers,
    questions that are only nearly the same or in another order, refusals that say more.

    Args:
        report: from `audit`.
        output: the .jsonl file to write; beside it comes a log with the ending .log.jsonl.

    Returns:
        What was left out and masked, row by row.

    Raises:
        KitError: the output is an input, is no .jsonl, or cannot be written.
    """
    output = Path(output).expanduser()
    log = check_copy(report.file, report.test, output)
    dropped = _dropped(report)
    private = {finding.rows[0]: finding.reason for finding in report.of("personal_data")}
    masked = {row: reason for row, reason in private.items() if row not in dropped}
    rows = [
        _masked(row) if number in masked else row
        for number, row in rows_of(report.file, [])
        if number not in dropped
    ]
    if not rows:
        raise KitError(
            f"Nothing would be left of {report.file}: every row has a finding. Look at the report "
            "before you clean."
        )
    write_jsonl(rows, output)
    cleaned = Cleaned(output, log, len(rows), dropped, masked)
    write_jsonl(cleaned.changes(), log)
    return cleaned


def _dropped(report: Audit) -> dict[int, tuple[str, str]]:
    """Why each row is left out: its own flaws first, then all but one of what repeats."""
    dropped: dict[int, tuple[str, str]] = {}
    for finding in report.findings:
        if finding.kind not in REPEATS:
            for row in finding.drop:
                dropped.setdefault(row, (finding.kind, finding.reason))
    for finding in report.of("exact_duplicate"):
        first = dropped.get(finding.rows[0], (finding.kind, finding.reason))
        for row in finding.drop:  # a copy has all the flaws of the first, named or not
            dropped.setdefault(row, first)
    for finding in report.of("near_duplicate"):
        left = [row for row in finding.rows if row not in dropped] if finding.drop else []
        dropped |= dict.fromkeys(left[1:], (finding.kind, finding.reason))
    return dict(sorted(dropped.items()))


def check_output(data: Path, test: Path | None, *outputs: Path) -> None:
    """Refuse to write over an input, under whatever name.

    Args:
        data, test: the inputs.
        outputs: the files to write.

    Raises:
        KitError: one of them is an input, or its folder is not there.
    """
    for output in outputs:
        if output.is_dir() or not output.parent.is_dir():
            what = "is a folder" if output.is_dir() else "is in a folder that does not exist"
            raise KitError(f"{output} {what}; name a file in a folder that is there.")
        for source in (data, test):
            if source and output.exists() and source.exists() and output.samefile(source):
                raise KitError(f"{output} is an input and would be lost; name another file.")


def check_copy(data: Path, test: Path | None, output: Path) -> Path:
    """Refuse a name that a cleaned copy cannot have: before the audit, not after it.

    Args:
        data, test: the inputs.
        output: the copy.

    Returns:
        Where its log goes.

    Raises:
        KitError: see `check_output`; or it is no .jsonl.
    """
    log = output.with_name(f"{output.stem}.log.jsonl")
    check_output(data, test, output, log)
    if output.suffix.lower() != ".jsonl":
        raise KitError(f"{output}: a cleaned copy has one JSON object a line; name a .jsonl file.")
    return log


def _masked(value: Any) -> Any:
    """The row with personal data masked in every text in it."""
    if isinstance(value, str):
        turns = _turns(value)  # a CSV cell; masked as text it would be no JSON any more
        return mask_personal_data(value) if turns is None else as_line(_masked(turns))
    if isinstance(value, dict):
        return {key: _masked(part) for key, part in value.items()}
    return [_masked(part) for part in value] if isinstance(value, list) else value


def _turns(text: str) -> Any:
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
