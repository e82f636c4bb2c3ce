"""What of a test stands in the training set, word for word or nearly."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from .. import KitError
from ..data import Conversation
from ..machine import digest
from ..runs import Run
from .contradictions import same_system
from .findings import Finding, Row, read_rows, row_of
from .questions import QuestionSet
from .similarity import words_of

# Chosen by hand: the planted leaks of tests/audit/conftest.py are the same from 3 to 6.
GENERIC = 4  # so many different answers make a question an instruction, no question of its own
_TURN = 4  # words from which a turn of a longer conversation says what it is about; by hand

Leaks = dict[int, dict[int, str]]  # test row, training rows that know it, and how


def trained_on(run: Run, data: Path, conversations: Sequence[Conversation]) -> int:
    """How many of the test's conversations a run was trained on, exactly or nearly.

    Args:
        run: from `open_run`.
        data: the test's file; by its hash also told when the training file is gone.
        conversations: read from it.
    """
    record = run.manifest
    if record is None:
        return 0
    if record.hashes.get("data") == digest(data.expanduser()):
        return len(conversations)
    columns = (record.config.get("prompt_field"), record.config.get("completion_field"))
    try:
        train = read_rows(record.data, *columns)
    except KitError:
        return 0
    test = [row_of(each.row, each.messages) for each in conversations]
    pairs = {row.turns[-1] for row in train}  # the same turn is known in any conversation
    return len(leaked(test, train).keys() | {row.number for row in test if row.turns[-1] in pairs})


def leaked(test: Sequence[Row], train: Sequence[Row]) -> Leaks:
    """Rows of a test that stand in a training set, word for word or nearly.

    Args:
        test: the held-out rows.
        train: the training rows.

    Returns:
        For each such row's number, the training rows that know it, each with how alike they are.
    """
    return leaks_in(QuestionSet(train, test, leaks_only=True))


def leak_findings(data: QuestionSet) -> Iterator[Finding]:
    """Training rows that hold a test question.

    Args:
        data: training set and test.
    """
    for held_out, known in sorted(leaks_in(data).items()):
        numbers = tuple(sorted(known))
        more = f", and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        reason = f"row {numbers[0]} knows test row {held_out}: {known[numbers[0]]}{more}"
        yield Finding("test_leak", numbers, reason, numbers)


def leaks_in(data: QuestionSet) -> Leaks:
    """See `leaked`; for rows that are gathered by their questions already."""
    leaks: Leaks = defaultdict(dict)
    sets = [data]
    if len(data.rows) > len(data.train) and any(len(row.turns) > 1 for row in data.rows):
        test = data.rows[len(data.train) :]
        sets.append(QuestionSet(_turns(data.train), _turns(test), leaks_only=True))
    for each in sets:
        for held_out, number, how in _leaks(each):
            leaks[held_out].setdefault(number, how)
    return leaks


def _turns(rows: Sequence[Row]) -> list[Row]:
    """Each turn of a conversation as a row, but for the short ones ("Thanks, and then?")."""
    return [
        replace(row, question=user, answer=answer, turns=())
        for row in rows
        for user, answer in row.turns
        if len(row.turns) == 1 or len(words_of(user).order) >= _TURN
    ]


def _leaks(data: QuestionSet) -> Iterator[tuple[int, int, str]]:
    """(test row, training row, how alike they are)."""
    beside: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (one, two), alike in data.near.items():
        beside[one].append((two, alike))
        beside[two].append((one, alike))
    for place, question in enumerate(data.questions):
        for test in question.test:
            for other, alike in [(place, 1.0), *beside[place]]:
                for index, how in _known(data, test, data.questions[other].train, alike):
                    yield data.rows[test].number, data.rows[index].number, how


def _known(
    data: QuestionSet, test: int, train: Sequence[int], alike: float
) -> Iterator[tuple[int, str]]:
    """Those of the training rows with one question that know a test row, and how."""
    held_out = data.rows[test]
    generic = len({data.answers[index] for index in train}) >= GENERIC
    for index in train:
        row, same = data.rows[index], data.same_answer(index, test)
        # One side without a system prompt is another format, not another question.
        elsewhere = row.system and held_out.system and not same_system(row.system, held_out.system)
        if not elsewhere and (same or not generic):
            exact = row.question.split() == held_out.question.split()
            part = "question and answer" if same else "question"
            yield index, f"{part}, {'word for word' if exact else f'{alike:.0%} alike'}"
