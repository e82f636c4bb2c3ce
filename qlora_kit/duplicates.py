"""Rows that repeat each other, contradict each other, or are known from the test."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from .contradictions import Answer, conflict
from .findings import Finding, Row
from .similarity import (
    Weights,
    Words,
    components,
    exchange,
    likeness,
    neighbors,
    same_numbers,
    words_of,
)

NEAR = 0.65  # likeness from which two questions, or two answers, are the same but for the spelling
TIGHT = 0.85  # the same in a template, where another word makes another question ...
CROWD = 3  # ... which so many questions show that differ in words that stand for each other ...
FAMILY = 0.5  # ... and are at least so alike otherwise
EXCHANGED = 0.06  # weighted share of such words; less is spelling
SURE = 0.75  # likeness of two questions whose answers must then agree
GENERIC = 5  # so many different answers make a question an instruction, no question of its own
SHOWN = 3  # partners named in a reason
_GROUP = 40  # rows of one question that are compared pair by pair; beyond, with the nearest ones


@dataclass(frozen=True)
class _Set:
    """Train and test rows together, with their different questions and how alike those are."""

    rows: list[Row]
    train: int
    questions: list[Words]
    members: list[list[int]]
    near: dict[tuple[int, int], float]
    answers: list[Words]
    weights: Weights


def duplicate_findings(rows: Sequence[Row], test: Sequence[Row] = ()) -> Iterator[Finding]:
    """Exact and near duplicates, leaks of the test, and contradicting answers.

    Args:
        rows: the training set.
        test: the held-out set, or nothing.
    """
    data = _gather(rows, test)
    exact = _exact(data)
    alone = set(range(data.train)) - {index for group in exact for index in group[1:]}
    for group in exact:
        yield _duplicates(data, group, "exact_duplicate", "the same text, character by character")
    for group in _near(data, alone):
        reason = "the same but for case, punctuation, spelling, order or a word"
        yield _duplicates(data, group, "near_duplicate", reason)
    yield from _leaks(data)
    yield from _contradictions(data, alone)


def _gather(rows: Sequence[Row], test: Sequence[Row]) -> _Set:
    together = [*rows, *test]
    where: dict[str, int] = {}
    questions: list[Words] = []
    members: list[list[int]] = []
    by_words: dict[Words, int] = {}
    for index, row in enumerate(together):
        text = _plain(row.question)
        if text not in where:
            words = words_of(text)
            if words not in by_words:
                by_words[words] = len(questions)
                questions.append(words)
                members.append([])
            where[text] = by_words[words]
        members[where[text]].append(index)
    weights = Weights(questions)
    near = _near_questions(questions, weights)
    answers = [words_of(row.answer) for row in together]
    return _Set(together, len(rows), questions, members, near, answers, Weights(answers))


def _near_questions(questions: Sequence[Words], weights: Weights) -> dict[tuple[int, int], float]:
    """Pairs of questions that are nearly the same, without those that share only a template."""
    near: dict[tuple[int, int], float] = {}
    other: set[tuple[int, int]] = set()
    for pair in neighbors(questions, weights):
        one, two = questions[pair[0]], questions[pair[1]]
        if not same_numbers(one, two):
            continue
        alike = likeness(one, two, weights)
        if FAMILY <= alike < TIGHT and exchange(one, two, weights) >= EXCHANGED:
            other.add(pair)
        if alike >= NEAR:
            near[pair] = alike
    siblings = Counter(index for pair in other for index in pair)
    return {
        (one, two): alike
        for (one, two), alike in near.items()
        if (one, two) not in other or max(siblings[one], siblings[two]) < CROWD
    }


def _plain(text: str) -> str:
    return " ".join(text.split())


def _duplicates(data: _Set, group: Sequence[int], kind: str, how: str) -> Finding:
    numbers = tuple(data.rows[index].number for index in group)
    reason = f"{_rows(numbers[1:])} repeat row {numbers[0]}: {how}"
    if len(numbers) == 2:
        reason = reason.replace(" repeat ", " repeats ", 1)
    return Finding(kind, numbers, reason, numbers[1:])


def _rows(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _exact(data: _Set) -> list[list[int]]:
    groups = defaultdict(list)
    for index, row in enumerate(data.rows[: data.train]):
        groups[_plain(row.system), _plain(row.question), _plain(row.answer)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _near(data: _Set, alone: set[int]) -> list[list[int]]:
    """Groups of rows whose questions are alike and whose answers are too."""
    found = []
    for one, two, _ in _pairs(data, NEAR):
        if one in alone and two in alone and _same_answer(data, one, two):
            found.append((one, two))
    return components(data.train, found)


def _same_answer(data: _Set, one: int, two: int) -> bool:
    left, right = data.answers[one], data.answers[two]
    if left == right:
        return True
    return same_numbers(left, right) and likeness(left, right, data.weights) >= NEAR


def _pairs(data: _Set, least: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of training rows whose questions are at least so alike."""
    for group in data.members:
        train = [index for index in group if index < data.train]
        for one, two in _within(train):
            yield one, two, 1.0
    for (left, right), alike in data.near.items():
        if alike >= least:
            for one in data.members[left][:_GROUP]:
                for two in data.members[right][:_GROUP]:
                    if max(one, two) < data.train:
                        yield one, two, alike


def _within(group: Sequence[int]) -> Iterable[tuple[int, int]]:
    if len(group) <= _GROUP:
        return combinations(group, 2)
    return [
        (one, two)
        for place, one in enumerate(group)
        for two in group[place + 1 : place + 1 + _GROUP // 2]
    ]


def _leaks(data: _Set) -> Iterator[Finding]:
    """Training rows that hold a test question, word for word or nearly."""
    if data.train == len(data.rows):
        return
    beside: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (one, two), alike in data.near.items():
        beside[one].append((two, alike))
        beside[two].append((one, alike))
    for question, members in enumerate(data.members):
        for index in members:
            if index >= data.train:
                yield from _leak(data, index, [(question, 1.0), *beside[question]])


def _leak(data: _Set, test: int, questions: Sequence[tuple[int, float]]) -> Iterator[Finding]:
    held_out = data.rows[test]
    known: dict[int, str] = {}
    for question, alike in questions:
        train = [index for index in data.members[question] if index < data.train]
        generic = len({data.answers[index] for index in train}) >= GENERIC
        for index in train:
            row, same = data.rows[index], _same_answer(data, index, test)
            if generic and not same:
                continue
            exact = _plain(row.question) == _plain(held_out.question)
            part = "question and answer" if same else "question"
            how = "word for word" if exact else f"{alike:.0%} alike"
            known[row.number] = f"{part}, {how}"
    if known:
        numbers = tuple(sorted(known))
        count = "" if len(numbers) == 1 else f", and {len(numbers) - 1} more"
        reason = f"row {numbers[0]} knows test row {held_out.number}: {known[numbers[0]]}{count}"
        yield Finding("test_leak", numbers, reason, numbers)


def _contradictions(data: _Set, alone: set[int]) -> Iterator[Finding]:
    """Questions that are the same, or nearly, with answers that clearly are not."""
    taken: dict[int, Answer] = {}

    def answer(index: int) -> Answer:
        if index not in taken:
            taken[index] = Answer(data.rows[index].answer)
        return taken[index]

    found: list[tuple[int, int]] = []
    reasons: dict[int, str] = {}
    for one, two, alike in _pairs(data, SURE):
        rows = data.rows[one], data.rows[two]
        apart = one not in alone or two not in alone or rows[0].system != rows[1].system
        if apart or not (rows[0].answer.strip() and rows[1].answer.strip()):
            continue
        reason = conflict(answer(one), answer(two), data.weights)
        if reason:
            found.append((one, two))
            reasons.setdefault(
                min(one, two),
                f"{'one question' if alike == 1 else 'nearly one question'}: {reason}",
            )
    for group in components(data.train, found):
        numbers = tuple(data.rows[index].number for index in group)
        reason = next(reasons[index] for index in group if index in reasons)
        yield Finding("contradiction", numbers, reason, numbers)
