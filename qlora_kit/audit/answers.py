"""Answers that teach nothing, or the wrong thing: empty, cut off, boilerplate, the same for all."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

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
_PLACEHOLDER = 60  # characters, marks around it included
_MORE = 3  # words after a refusal that name something else
_ENDS = re.compile(r"[.!?…。！？؟।)\]}>\"'”’»`*_~|][^\w,:;(\[{-]*$")  # noqa: RUF001 (full-width marks)
_OPEN_END = re.compile(
    r"(?:[,(\[{\u2013\u2014]|\s-|\b(?:the|a|an|and|or|of|with|because|which|your|our|their|my|its|than|"
    r"from|if|when|while|that|every|each|between|into|about|to the|such as))\s*$",
    re.I,
)
_TAIL = 100  # characters in which an answer ends
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
    rest = []
    for row in rows:
        empty = _empty(row.answer, labels)
        if empty:
            yield Finding("empty_answer", (row.number,), empty, (row.number,))
        else:
            rest.append(row)
    kept = []
    for row in rest:
        found = [phrase for phrase in map(_boilerplate, row.answers) if phrase]
        if found:
            sure = [phrase for phrase, more in found if not more]
            reason = f"the answer says {(sure or [found[0][0]])[0]!r}"
            reason += "" if sure else ", and then more: look whether that helps"
            drop = (row.number,) if sure else ()
            yield Finding("boilerplate_answer", (row.number,), reason, drop)
        else:
            kept.append(row)
    if not labels:
        yield from _truncated(kept)
        yield from _repeated(kept)


def _boilerplate(answer: str) -> tuple[str, bool] | None:
    """The phrase that nobody needs, and whether a refusal then names what helps."""
    answer = answer.replace("\u2019", "'")
    match = _BOILERPLATE.search(answer)
    if not match:
        return None
    rest = answer[match.end() :]
    phrase = " ".join(match[0].split())
    told = _REFUSAL.match(match[0]) and not _BOILERPLATE.search(rest)
    words = re.split(r"[.!?;:]\s|\bbut\b|,\s", rest, maxsplit=1)
    more = bool(told and len(words) == 2 and len(split_words(words[1])) >= _MORE)
    return phrase, more and not _EMPTY_HELP.search(words[1])


def _empty(answer: str, labels: bool) -> str:
    if not answer.strip():
        return "there is no answer"
    if all(not mark.isalnum() and ord(mark) < 0x2190 for mark in answer):  # arrows, emoji may say
        return "" if labels else f"the answer is only {answer.strip()[:20]!r}"
    short = len(answer.strip()) <= _PLACEHOLDER and not labels
    if short and _NOTHING.fullmatch(" ".join(split_words(answer))):
        return f"the answer is a placeholder, {answer.strip()[:20]!r}"
    return ""


def _truncated(rows: Sequence[Row]) -> Iterator[Finding]:
    """Answers that stop against the set's habit, or on a word that nobody ends with."""
    texts = [(row, text) for row in rows for text in row.answers]
    long = [each for each in texts if len(each[1].split()) >= _LONG or _is_code_open(each[1])]
    ended = sum(_is_ended(text) for _, text in long)
    habit = len(long) >= 20 and ended >= _HABIT * len(long)
    marker = _closing_marker([text for row, text in long if text == row.answer])
    told: set[int] = set()
    for row, text in long:
        answer = text.rstrip()
        last = answer.split()[-1] if answer else ""
        final = marker and text == row.answer  # the turns before need no closing line
        if row.number in told:
            continue
        if final and not _last_line(answer).startswith(marker):
            reason = f"it lacks the last line with {marker!r} that nearly all others have"
        elif not marker and habit and not _is_ended(answer) and not _is_mark(answer):
            share = f"{ended / len(long):.0%}"
            reason = f"it stops at {last[-20:]!r}; {share} of the set's answers end with a mark"
        elif _is_code_open(answer):
            reason = "a code block is opened and not closed"
        elif _OPEN_END.search(answer, _tail(answer)):
            reason = f"it stops at {last[-20:]!r}, in the middle of a sentence"
        else:
            continue
        told.add(row.number)
        yield Finding("truncated_answer", (row.number,), reason, (row.number,))


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
    usual = len(answers) >= 20 and count >= _HABIT * len(answers)
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
    counts = sorted(len(questions) for questions in asked.values())
    usual = counts[len(counts) // 2] if counts else 0
    for answer, questions in asked.items():
        if answer and len(answer.split()) >= 3 and len(questions) >= max(10, 4 * usual):
            numbers = tuple(sorted(questions.values()))
            reason = f"one answer to {len(questions)} different questions (usual here: {usual})"
            yield Finding("boilerplate_answer", numbers, reason, numbers[1:])


def _questions(rows: Sequence[Row]) -> dict[str, int]:
    """The different questions of some rows, each with the first row that asks it."""
    if len(rows) == 1:
        return {"": rows[0].number}
    return {" ".join(split_words(row.question)): row.number for row in reversed(rows)}
