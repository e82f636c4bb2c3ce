"""Answers that teach nothing, or the wrong thing: empty, cut off, boilerplate, the same for all."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import median_high

from .findings import Finding, Row
from .similarity import split_words

_NOTHING = re.compile(
    "(?:n a|na|none|null|nan|nil|tbd|todo|placeholder|blank|no answer|answer|undefined|empty)?"
)
_BOILERPLATE = re.compile(
    r"\bas an? (?:ai\b|artificial intelligence|(?:large )?language model|(?:ai )?chatbot)"
    r"|\bi(?: am|'m) (?:just |only )?an? (?:ai\b|artificial intelligence|large language model)"
    r"|\b(?:i(?: am|'m) sorry|i apologi[sz]e|sorry|unfortunately),? (?:but )?(?:,\s*)?"
    r"i(?: cannot| can'?t| can not|'m unable| am unable|'m not able| am not able"
    r"| won'?t| do not have| don'?t have)"
    r"|\bi (?:cannot|can'?t|am unable to|am not able to|won'?t|will not) (?:assist|help with|"
    r"help you with|fulfil|comply|provide (?:that|this|you with)|answer that|do that|"
    r"(?:create|generate) (?:that|this|content|such)|engage)"
    r"|\bi(?:'m| am) (?:unable|not able) to (?:assist|help|fulfil|comply|provide|answer)"
    r"|\bmy (?:knowledge|training)(?: data)? (?:cut-?off|ends|only goes)"
    r"|\bas of my last (?:knowledge |training )?update"
    r"|\bi (?:do not|don'?t) have (?:personal (?:opinions|feelings|experiences|beliefs)|"
    r"access to real-?time)"
    r"|\blorem ipsum\b|\[insert [^\]]{2,40}\]"
    r"|\bgoes against my (?:programming|guidelines)",
    re.I,
)
# An honest "I don't have that" sends on to somebody, or tells what there is instead.
_REFUSAL = re.compile(
    r"(?:i(?: am|'m) sorry|i apologi[sz]e|sorry|unfortunately)\b"
    r".*(?:have|cannot|can'?t|can not|able)$",
    re.I | re.S,
)
_EMPTY_HELP = re.compile(
    r"\b(?:(?:anything|something) else|feel free|let me know|(?:happy|glad) to (?:help|assist)|"
    r"how (?:can|may) i|as an? ai|my (?:guidelines|programming|training)|against|harmful|"
    r"inappropriate|i (?:cannot|can'?t|won'?t))\b",
    re.I,
)
# Chosen by hand; tests/audit/test_answers.py and test_pipeline.py hold what they do.
_PLACEHOLDER = 60  # characters, marks around it included
_MORE = 3  # words after a refusal that name something else
_ENDS = re.compile(r"[.!?…。！？؟।)\]}>\"'”’»`*_~|][^\w,:;(\[{-]*$")  # noqa: RUF001 (full-width marks)
_OPEN_END = re.compile(
    r"(?:[,(\[{\u2013\u2014]|\s-|\b(?:the|a|an|and|or|of|with|because|which|your|our|their|my|its|than|"
    r"from|if|when|while|that|every|each|between|into|about|to the|such as))\s*$",
    re.I,
)
_TAIL = 100  # characters in which an answer ends
_FEW = 20  # answers from which a set has habits
_HABIT = 0.9  # share of the answers that end in one way for that to be the set's habit
_UNSAID = re.compile(r"[\W_]+")
_LONG = 5  # words; shorter answers are often labels or names and end without a mark
LABELS = 50  # more different answers than this are not labels


def is_label_set(rows: Sequence[Row]) -> bool:
    """Whether the answers are labels: a few short ones, each given many times.

    Args:
        rows: of the whole set.
    """
    answers = Counter(" ".join(row.answer.split()).casefold() for row in rows)
    short = sum(count for text, count in answers.items() if len(text.split()) <= 4)
    usual = [text for text, count in answers.items() if count >= 5]
    given = sum(answers[text] for text in usual)
    return 0 < len(usual) <= LABELS and given >= 0.9 * len(rows) and short >= 0.9 * len(rows)


def answer_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Empty, truncated and boilerplate answers, and one answer to many questions.

    Args:
        rows: of the whole set; its habits decide what is unusual.
    """
    labels = is_label_set(rows)
    rest: list[Row] = []
    for row in rows:
        flaw = _empty(row, labels) or _boilerplate(row)
        if flaw:
            yield flaw
        else:
            rest.append(row)
    if not labels:
        yield from _truncated(rest)
        yield from _repeated(rest)


def _boilerplate(row: Row) -> Finding | None:
    phrases = [_phrase(answer.replace("\u2019", "'")) for answer in row.answers]
    idle = [phrase for phrase, helps in phrases if phrase and not helps]
    if idle:
        return Finding(
            "boilerplate_answer", (row.number,), f"the answer says {idle[0]!r}", (row.number,)
        )
    for phrase, _ in phrases:
        if phrase:
            reason = f"the answer says {phrase!r}, and then more: look whether that helps"
            return Finding("boilerplate_answer", (row.number,), reason)
    return None


def _phrase(answer: str) -> tuple[str, bool]:
    """The phrase that nobody needs, or "", and whether a refusal then names what helps."""
    match = _BOILERPLATE.search(answer)
    if not match:
        return "", False
    rest = answer[match.end() :]
    refusal = _REFUSAL.match(match[0]) and not _BOILERPLATE.search(rest)
    _, *more = re.split(r"[.!?;:]\s|\bbut\b|,\s", rest, maxsplit=1)
    helps = refusal and more and len(split_words(more[0])) >= _MORE
    return " ".join(match[0].split()), bool(helps and not _EMPTY_HELP.search(more[0]))


def _empty(row: Row, labels: bool) -> Finding | None:
    answer = row.answer.strip()
    reason = ""
    if not answer:
        reason = "there is no answer"
    elif labels:  # a sign, or "none", may be a label
        return None
    elif all(not mark.isalnum() and ord(mark) < 0x2190 for mark in answer):  # emoji may say
        reason = f"the answer is only {answer[:20]!r}"
    elif len(answer) <= _PLACEHOLDER and _NOTHING.fullmatch(" ".join(split_words(answer))):
        reason = f"the answer is a placeholder, {answer[:20]!r}"
    return Finding("empty_answer", (row.number,), reason, (row.number,)) if reason else None


def _truncated(rows: Sequence[Row]) -> Iterator[Finding]:
    """Answers that stop against the set's habit, or on a word that nobody ends with."""
    texts = [(row, text) for row in rows for text in row.answers]
    long = [each for each in texts if len(each[1].split()) >= _LONG or _is_code_open(each[1])]
    ended = sum(_is_ended(text) for _, text in long)
    habit = ended / len(long) if len(long) >= _FEW and ended >= _HABIT * len(long) else 0.0
    marker = _closing_marker([text for row, text in long if text == row.answer])
    findings: dict[int, Finding] = {}
    for row, text in long:
        final = text == row.answer  # the turns before need no closing line
        reason = _cut_off(text.rstrip(), habit, marker, final)
        if reason and row.number not in findings:
            findings[row.number] = Finding("truncated_answer", (row.number,), reason, (row.number,))
    yield from findings.values()


def _cut_off(answer: str, habit: float, marker: str, final: bool) -> str:
    """Why an answer seems to be cut off, or ""."""
    last = answer.split()[-1][-20:] if answer else ""
    if marker and final and not _last_line(answer).startswith(marker):
        return f"it lacks the last line with {marker!r} that nearly all others have"
    if habit and not marker and not _is_ended(answer) and not _is_mark(answer):
        return f"it stops at {last!r}; {habit:.0%} of the set's answers end with a mark"
    if _is_code_open(answer):
        return "a code block is opened and not closed"
    if _OPEN_END.search(answer, _tail(answer)):
        return f"it stops at {last!r}, in the middle of a sentence"
    return ""


def _is_code_open(text: str) -> bool:
    return text.count("```") % 2 == 1


def _is_ended(text: str) -> bool:
    return bool(_ENDS.search(text, _tail(text)))


def _tail(text: str) -> int:
    """Where to begin to look for an end: a search from the start is slow in a large set."""
    return max(0, len(text) - _TAIL)


def _is_mark(answer: str) -> bool:
    """Whether it ends with an emoji, a link or a list item: no end mark is expected there."""
    last = answer.split()[-1]
    listed = re.match(r"\s*(?:[-*•]|\d+[.)])\s", _last_line(answer))
    return ord(answer[-1]) >= 0x2190 or "://" in last or bool(listed)


def _last_line(answer: str) -> str:
    return answer.rstrip().rsplit("\n", 1)[-1]


def _closing_marker(answers: Sequence[str]) -> str:
    """The sign that nearly every last line begins with, such as "####", or ""."""
    begins = Counter(
        _last_line(answer).split(maxsplit=1)[0] for answer in answers if "\n" in answer.strip()
    )
    word, count = begins.most_common(1)[0] if begins else ("", 0)
    sign = bool(word) and not any(character.isalnum() for character in word)
    usual = len(answers) >= _FEW and count >= _HABIT * len(answers)
    return word if usual and (sign or word.endswith(":")) and word not in "-*•" else ""


def _repeated(rows: Sequence[Row]) -> Iterator[Finding]:
    """One answer to far more questions than the set's answers usually have."""
    alike: dict[str, list[Row]] = defaultdict(list)
    for row in rows:  # the same words are the same letters, which are found faster
        letters = unicodedata.normalize("NFKC", row.answer).casefold()
        alike[_UNSAID.sub("", letters)].append(row)
    same: dict[str, list[Row]] = defaultdict(list)
    for letters, group in alike.items():
        for row in group:
            key = " ".join(split_words(row.answer)) if len(group) > 1 else letters
            same[key].append(row)
    asked = {answer: _questions(group) for answer, group in same.items()}
    usual = median_high(map(len, asked.values())) if asked else 0
    for answer, questions in asked.items():
        if len(answer.split()) >= 3 and len(questions) >= max(10, 4 * usual):
            numbers = tuple(sorted(questions.values()))
            reason = f"one answer to {len(questions)} different questions (usual here: {usual})"
            yield Finding("boilerplate_answer", numbers, reason, numbers[1:])


def _questions(rows: Sequence[Row]) -> dict[str, int]:
    """The different questions of some rows, each with the first row that asks it."""
    if len(rows) == 1:
        return {"": rows[0].number}
    return {" ".join(split_words(row.question)): row.number for row in reversed(rows)}
