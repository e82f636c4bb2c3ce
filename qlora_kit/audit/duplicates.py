"""Rows that repeat each other, or contradict each other."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from .contradictions import ParsedAnswer, conflict, same_system
from .findings import Finding, Row, named_rows
from .leaks import GENERIC, leak_findings
from .questions import NEAR, QuestionSet
from .similarity import Idf, components, likeness

# Recall of the planted contradictions in tests/audit/test_contradictions.py: 0.970 with SURE 0.75,
# 0.975 with 0.65, 0.930 with 0.85, always without a false one. UNLIKE is chosen by hand: there, and
# with GENERIC from 3 to 6, nothing changes between 0.1 and 0.3.
SURE = 0.75  # likeness of two questions whose answers must then agree
UNLIKE = 0.2  # likeness below which two answers are no wordings of one
SHOWN = 3  # partners named in a reason


@dataclass(frozen=True)
class _Conflict:
    """Why two rows contradict each other, and whether they ask one question, or nearly one."""

    same: bool
    reason: str


_Conflicts = dict[tuple[int, int], _Conflict]  # by the indices of two rows, in order


def duplicate_findings(rows: Sequence[Row], test: Sequence[Row] = ()) -> Iterator[Finding]:
    """Exact and near duplicates, leaks of the test, and contradicting answers.

    Args:
        rows: the training set.
        test: the held-out set, or nothing.
    """
    data = QuestionSet(rows, test)
    copies = _copies(rows)
    for group in copies:
        yield _repeats(rows, group, "exact_duplicate", "the same text, character by character")
    originals = set(range(len(rows))).difference(*(group[1:] for group in copies))
    conflicts = _conflicts(data, originals)
    yield from _near(data, originals, conflicts)
    yield from leak_findings(data)
    yield from _contradictions(rows, conflicts)


def _repeats(rows: Sequence[Row], group: Sequence[int], kind: str, how: str) -> Finding:
    first, *others = (rows[index].number for index in group)
    verb = "repeat" if len(others) > 1 else "repeats"
    reason = f"{named_rows(others, SHOWN)} {verb} row {first}: {how}"
    return Finding(kind, (first, *others), reason, tuple(others))


def _copies(rows: Sequence[Row]) -> list[list[int]]:
    groups = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.system.strip(), _visible(row.question), _visible(row.answer)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _visible(text: str) -> str:
    """A text without the white space that nobody sees; that before a line may be code."""
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))


def _near(data: QuestionSet, originals: set[int], conflicts: _Conflicts) -> Iterator[Finding]:
    """Groups of rows whose questions are alike and whose answers are too."""
    rows = data.train
    spelled: list[tuple[int, int]] = []
    moved: list[tuple[int, int]] = []
    for one, two, relation in data.pairs(NEAR):
        if originals.issuperset((one, two)) and (one, two) not in conflicts:
            same = same_system(rows[one].system, rows[two].system)
            if same and data.same_answer(one, two):
                (moved if relation == "moved" else spelled).append((one, two))
    against: dict[int, set[int]] = defaultdict(set)
    for one, two in conflicts:
        against[two].add(one)
    first: dict[int, int] = {}
    for group in components(spelled):
        alike: list[int] = []
        for index in group:  # what contradicts one that stays is no copy of it
            if against[index].isdisjoint(alike):
                alike.append(index)
        first |= dict.fromkeys(alike, group[0])
        if len(alike) > 1:
            how = "the same but for case, punctuation, spelling or a word"
            yield _repeats(rows, alike, "near_duplicate", how)
    apart = [(one, two) for one, two in moved if first.get(one, one) != first.get(two, two)]
    for group in components(apart):
        how = "the same but for the order of words; look whether they ask the same"
        yield replace(_repeats(rows, group, "near_duplicate", how), drop=())


def _conflicts(data: QuestionSet, originals: set[int]) -> _Conflicts:
    """Pairs of rows with one question, or nearly, and answers that clearly are not one."""

    @cache
    def parsed(index: int) -> ParsedAnswer:
        return ParsedAnswer(data.train[index].answer)

    compared = {index for index in originals if data.train[index].answer.strip()}
    for question in data.questions:
        group = [index for index in question.train if index in originals]
        if _is_instruction(map(parsed, group), data.idf):
            compared.difference_update(group)
    conflicts: _Conflicts = {}
    for one, two, relation in data.pairs(SURE):
        if compared.issuperset((one, two)) and data.train[one].system == data.train[two].system:
            reason = conflict(parsed(one), parsed(two), data.idf)
            if reason:
                conflicts[one, two] = _Conflict(relation == "same", reason)
    return conflicts


def _is_instruction(answers: Iterable[ParsedAnswer], idf: Idf) -> bool:
    """Whether a question is an instruction: many answers, and each is another."""
    different: list[ParsedAnswer] = []
    for answer in answers:
        if all(_unlike(answer, other, idf) for other in different):
            different.append(answer)
            if len(different) == GENERIC:
                return True
    return False


def _unlike(one: ParsedAnswer, two: ParsedAnswer, idf: Idf) -> bool:
    return bool(conflict(one, two, idf)) or likeness(one.core, two.core, idf) < UNLIKE


def _contradictions(rows: Sequence[Row], conflicts: _Conflicts) -> Iterator[Finding]:
    """Questions that are the same, or nearly, with answers that clearly are not.

    Which questions are only nearly the same is a guess: a copy keeps those rows.
    """
    sure = {index for pair, each in conflicts.items() if each.same for index in pair}
    reasons: dict[int, str] = {}
    for (index, _), each in sorted(conflicts.items(), key=lambda item: not item[1].same):
        question = "one question" if each.same else "nearly one question"
        reasons.setdefault(index, f"{question}: {each.reason}")
    for group in components(conflicts):
        numbers = tuple(rows[index].number for index in group)
        drop = tuple(rows[index].number for index in group if index in sure)
        reason = next(
            reasons[i] for i in sorted(group, key=lambda i: i not in sure) if i in reasons
        )
        yield Finding("contradiction", numbers, reason, drop)
