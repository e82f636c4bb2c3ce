"""Rows that repeat each other, contradict each other, or are known from the test."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from .contradictions import Answer, conflict, differ, same_matter, same_system
from .findings import Finding, Row
from .minhash import neighbors
from .similarity import (
    Weights,
    Words,
    components,
    exchange,
    layout,
    likeness,
    reordered,
    same_numbers,
    words_of,
)

NEAR = 0.65  # likeness from which two questions, or two answers, are the same but for the spelling
TIGHT = 0.85  # the same in a template, where another word makes another question ...
CROWD = 3  # ... which so many questions show that differ in words that stand for each other ...
FAMILY = 0.5  # ... and are at least so alike otherwise
EXCHANGED = 0.06  # weighted share of such words; less is spelling
SURE = 0.75  # likeness of two questions whose answers must then agree
GENERIC = 4  # so many different answers make a question an instruction, no question of its own
UNLIKE = 0.2  # likeness below which two answers are no wordings of one
SHOWN = 3  # partners named in a reason
TALK = 4  # words from which a turn of a longer talk says what it is about
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
    opposed = _opposed(data, alone)
    yield from _near(data, alone, opposed)
    yield from _leaks(data)
    yield from _contradictions(data, opposed)


def _gather(rows: Sequence[Row], test: Sequence[Row]) -> _Set:
    together = [*rows, *test]
    where: dict[str, int] = {}
    questions: list[Words] = []
    members: list[list[int]] = []
    by_words: dict[tuple[Words, tuple[int, ...]], int] = {}
    for index, row in enumerate(together):
        text = row.question.strip()
        if text not in where:
            key = words_of(text), layout(text)
            if key not in by_words:
                by_words[key] = len(questions)
                questions.append(key[0])
                members.append([])
            where[text] = by_words[key]
        members[where[text]].append(index)
    weights = Weights(questions)
    near = _near_questions(questions, weights)
    texts = [together[group[0]].question for group in members]
    near = {
        (one, two): alike
        for (one, two), alike in near.items()
        if same_matter(questions[one], questions[two], texts[one], texts[two])
    }
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
        groups[row.system.strip(), _text(row.question), _text(row.answer)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def _text(text: str) -> str:
    """A text without the white space that nobody sees; that before a line may be code."""
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))


def _near(data: _Set, alone: set[int], opposed: "_Opposed") -> Iterator[Finding]:
    """Groups of rows whose questions are alike and whose answers are too."""
    sure: list[tuple[int, int]] = []
    moved: list[tuple[int, int]] = []
    for one, two, alike in _pairs(data, NEAR):
        if one in alone and two in alone and (min(one, two), max(one, two)) not in opposed:
            systems = data.rows[one].system, data.rows[two].system
            if _same_answer(data, one, two) and same_system(*systems):
                (moved if alike.moved else sure).append((one, two))
    against: dict[int, set[int]] = defaultdict(set)
    for one, two in opposed:
        against[two].add(one)
    first: dict[int, int] = {}
    for whole in components(data.train, sure):
        kept: dict[int, None] = {}
        for index in whole:  # what contradicts one that is kept is no copy of it
            if against[index].isdisjoint(kept):
                kept[index] = None
        first |= dict.fromkeys(kept, whole[0])
        if len(kept) > 1:
            reason = "the same but for case, punctuation, spelling or a word"
            yield _duplicates(data, list(kept), "near_duplicate", reason)
    apart = [(a, b) for a, b in moved if first.get(a, a) != first.get(b, b)]
    for group in components(data.train, apart):
        reason = "the same but for the order of words; look whether they ask the same"
        yield replace(_duplicates(data, group, "near_duplicate", reason), drop=())


def _same_answer(data: _Set, one: int, two: int) -> bool:
    left, right = data.answers[one], data.answers[two]
    if layout(data.rows[one].answer.strip()) != layout(data.rows[two].answer.strip()):
        return False
    if left.order == right.order:
        return True
    alike = same_numbers(left, right) and likeness(left, right, data.weights) >= NEAR
    return alike and not differ(left, right)


@dataclass(frozen=True)
class _Alike:
    """How alike two rows' questions are, whether they are one, or one in another order."""

    share: float = 1.0
    same: bool = True
    moved: bool = False


_SAME = _Alike()


def _pairs(data: _Set, least: float) -> Iterator[tuple[int, int, _Alike]]:
    """Pairs of training rows whose questions are at least so alike."""
    for group in data.members:
        train = [index for index in group if index < data.train]
        for one, two in _within(train):
            yield one, two, _SAME
    for (left, right), share in data.near.items():
        if share >= least:
            moved = bool(reordered(data.questions[left], data.questions[right]))
            alike = _Alike(share, False, moved)
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
    known: dict[int, dict[int, str]] = defaultdict(dict)
    _collect_leaks(data, known)
    if any(len(row.turns) > 1 for row in data.rows):
        train, test = data.rows[: data.train], data.rows[data.train :]
        _collect_leaks(_gather(_turns(train), _turns(test)), known)
    for held_out, found in sorted(known.items()):
        numbers = tuple(sorted(found))
        count = "" if len(numbers) == 1 else f", and {len(numbers) - 1} more"
        reason = f"row {numbers[0]} knows test row {held_out}: {found[numbers[0]]}{count}"
        yield Finding("test_leak", numbers, reason, numbers)


def _turns(rows: Sequence[Row]) -> list[Row]:
    """Each turn of a talk as a row of its own, but for the short ones ("Thanks, and then?")."""
    return [
        replace(row, question=user, answer=answer, turns=())
        for row in rows
        for user, answer in row.turns
        if len(row.turns) == 1 or len(words_of(user).order) >= TALK
    ]


def _collect_leaks(data: _Set, known: dict[int, dict[int, str]]) -> None:
    beside: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (one, two), alike in data.near.items():
        beside[one].append((two, alike))
        beside[two].append((one, alike))
    for question, members in enumerate(data.members):
        for index in members:
            if index >= data.train:
                near = [(question, 1.0), *beside[question]]
                for number, how in _leak(data, index, near).items():
                    known[data.rows[index].number].setdefault(number, how)


def _leak(data: _Set, test: int, questions: Sequence[tuple[int, float]]) -> dict[int, str]:
    held_out = data.rows[test]
    known: dict[int, str] = {}
    for question, alike in questions:
        train = [index for index in data.members[question] if index < data.train]
        generic = len({data.answers[index] for index in train}) >= GENERIC
        for index in train:
            row, same = data.rows[index], _same_answer(data, index, test)
            # One side without a system prompt is another format, not another question.
            elsewhere = row.system and held_out.system
            if elsewhere and not same_system(row.system, held_out.system):
                continue
            if generic and not same:
                continue
            exact = _plain(row.question) == _plain(held_out.question)
            part = "question and answer" if same else "question"
            how = "word for word" if exact else f"{alike:.0%} alike"
            known[row.number] = f"{part}, {how}"
    return known


_Opposed = dict[tuple[int, int], tuple[bool, str]]  # pairs of rows: is it one question? and why


def _opposed(data: _Set, alone: set[int]) -> _Opposed:
    """Pairs of rows with one question, or nearly, and answers that clearly are not one."""
    taken: dict[int, Answer] = {}

    def answer(index: int) -> Answer:
        if index not in taken:
            taken[index] = Answer(data.rows[index].answer)
        return taken[index]

    free = {
        index
        for group in data.members
        for index in _instructed(data, [i for i in group if i in alone], answer)
    }
    found: _Opposed = {}
    for one, two, alike in _pairs(data, SURE):
        rows = data.rows[one], data.rows[two]
        apart = one not in alone or two not in alone or one in free or two in free
        if apart or rows[0].system != rows[1].system:
            continue
        if not (rows[0].answer.strip() and rows[1].answer.strip()):
            continue
        reason = conflict(answer(one), answer(two), data.weights)
        if reason:
            found[min(one, two), max(one, two)] = alike.same, reason
    return found


def _instructed(data: _Set, group: Sequence[int], answer: Callable[[int], Answer]) -> Sequence[int]:
    """The rows of a question that is an instruction: many answers, and each is another."""
    if len(group) < GENERIC:
        return ()
    others: list[Answer] = []
    for index in group:
        mine = answer(index)
        if all(_unlike(mine, other, data.weights) for other in others):
            others.append(mine)
            if len(others) == GENERIC:
                return group
    return ()


def _unlike(one: Answer, two: Answer, weights: Weights) -> bool:
    return bool(conflict(one, two, weights)) or likeness(one.core, two.core, weights) < UNLIKE


def _contradictions(data: _Set, opposed: _Opposed) -> Iterator[Finding]:
    """Questions that are the same, or nearly, with answers that clearly are not.

    Which questions are only nearly the same is a guess: a copy keeps those rows.
    """
    sure = {index for pair, (same, _) in opposed.items() if same for index in pair}
    reasons: dict[int, str] = {}
    for (index, _), (same, reason) in sorted(opposed.items(), key=lambda item: not item[1][0]):
        text = f"{'one question' if same else 'nearly one question'}: {reason}"
        reasons.setdefault(index, text)
    for group in components(data.train, opposed):
        numbers = tuple(data.rows[index].number for index in group)
        drop = tuple(data.rows[index].number for index in group if index in sure)
        told = [index for index in group if index in reasons]
        reason = reasons[min(told, key=lambda index: index not in sure)]
        yield Finding("contradiction", numbers, reason, drop)
