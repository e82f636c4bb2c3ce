"""What is unusual for the set itself: a language, a length, rare labels, labels tied to a group."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from statistics import median
from typing import Any

from .answers import is_label_set
from .findings import Finding, Row
from .similarity import split_words

LABEL_FIELDS = ("label", "intent", "topic", "category", "class")
GROUP_FIELDS = ("group", "source", "author", "writer", "channel", "region", "country", "gender")
_LANGUAGES = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi",
    "hr", "hu", "id", "it", "ja", "ko", "lt", "lv", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl",
    "sv", "sw", "ta", "th", "tr", "uk", "vi", "zh",
)  # fmt: skip
_SAMPLE = 300  # characters that are enough to know a language
_ASKED = 2000  # rows whose language says which ones belong to the set, and how those sound
_USUAL = 0.01  # a word in this share of those rows is usual there
_GLANCE = 100  # characters whose words are looked up among the usual ones ...
_SOUNDS = 0.4  # ... of which a text in the set's language has this share
_LETTERS = 20  # fewer letters are names and codes as often as language
_SURE = 0.9
_AT_HOME = 0.1  # a language with this share of the rows belongs to the set
_FACTOR = 5.0  # times shorter or longer than the median ...
_SPREADS = 4.0  # ... and so many robust standard deviations away, on a logarithmic scale
_TIED = 1.5  # times what independence expects, from which a group's label is reported ...
_RESIDUAL = 3.0  # ... when it is so many standard deviations more (Haberman 1973)
_UNEVEN = 4.0  # times the rarest label, from which the most frequent one is reported


def outlier_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Languages and lengths that the set does not have otherwise, and uneven labels.

    Args:
        rows: of the whole set.
    """
    yield from _language(rows)
    yield from _length(rows)
    yield from _imbalance(rows)
    yield from _skew(rows)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(_LANGUAGES)
    return identifier


def language_of(text: str) -> str:
    """The language of a text (ISO 639-1), or "" when there is too little to know.

    Args:
        text: its beginning is looked at.
    """
    text = text[:_SAMPLE]
    letters = sum(map(str.isalpha, text))
    # A sign of the scripts from here on says as much as a word.
    wide = 0 if text.isascii() else sum(sign >= "\u2e80" and sign.isalpha() for sign in text)
    if letters + 3 * wide < _LETTERS or letters < 0.5 * len(text):
        return ""
    language, certainty = _identifier().classify(text)
    return str(language) if certainty >= _SURE else ""


def _language(rows: Sequence[Row]) -> Iterator[Finding]:
    sides = {"question": [row.question for row in rows], "answer": [row.answer for row in rows]}
    strange: dict[int, str] = {}
    for side, texts in sides.items():
        step = max(1, len(texts) // _ASKED)
        known = {text: language_of(text) for text in texts[::step]}
        counts = Counter(known[text] for text in texts[::step] if known[text])
        home = {name for name, count in counts.items() if count >= _AT_HOME * counts.total()}
        if counts.total() < 20 or not home:
            continue
        usual = _usual_words([text for text, language in known.items() if language in home])
        for row, text in zip(rows, texts, strict=True):
            if text not in known and _share(text, usual) >= _SOUNDS:
                continue  # to ask for each would take most of the audit's time
            language = known[text] if text in known else language_of(text)
            if language and language not in home:
                others = ", ".join(sorted(home))
                strange.setdefault(row.number, f"its {side} is {language!r}; the set's: {others}")
    for number, reason in strange.items():
        yield Finding("language_outlier", (number,), reason)


def _usual_words(texts: Sequence[str]) -> set[str]:
    counts = Counter(word for text in texts for word in set(split_words(text[:_SAMPLE])))
    return {word for word, count in counts.items() if count >= _USUAL * len(texts)}


def _share(text: str, usual: set[str]) -> float:
    words = split_words(text[:_GLANCE])
    return sum(word in usual for word in words) / max(len(words), 1)


def _length(rows: Sequence[Row]) -> Iterator[Finding]:
    sides: dict[str, Callable[[Row], str]] = {
        "question": lambda row: row.question, "answer": lambda row: row.answer
    }  # fmt: skip
    strange: dict[int, str] = {}
    for side, text in sides.items():
        lengths = {row.number: len(text(row).strip()) for row in rows}
        logs = {number: math.log(length) for number, length in lengths.items() if length}
        if len(logs) < 20:
            continue
        middle = median(logs.values())
        spread = max(1.4826 * median(abs(value - middle) for value in logs.values()), 0.15)
        least = max(math.log(_FACTOR), _SPREADS * spread)
        for number, value in logs.items():
            if abs(value - middle) >= least:
                reason = (
                    f"its {side} has {lengths[number]:,} characters; half of the set's have up to "
                    f"{math.exp(middle):,.0f}"
                )
                strange.setdefault(number, reason)
    for number, reason in sorted(strange.items()):
        yield Finding("length_outlier", (number,), reason)


def _imbalance(rows: Sequence[Row]) -> Iterator[Finding]:
    found = False
    for field in LABEL_FIELDS:
        labels = _values(rows, field)
        if len(labels) >= 0.5 * len(rows):
            found = True
            yield from _uneven(repr(field), labels)
    if not found and is_label_set(rows):
        answers = {row.number: " ".join(row.answer.split()) for row in rows}
        yield from _uneven("the answer", {key: value for key, value in answers.items() if value})


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int | bool) and value != ""


def _uneven(name: str, labels: dict[int, Any]) -> Iterator[Finding]:
    counts = Counter(labels.values())
    kinds, rows = len(counts), len(labels)
    if rows < 20 or not 2 <= kinds <= rows / 5:
        return  # as many values as rows are names, not labels
    even = rows / kinds
    (most, top), (_, least) = counts.most_common()[0], counts.most_common()[-1]
    # Twice the chance spread: a label with 3 rows where 5 were due says nothing.
    rare = {
        label: count
        for label, count in counts.items()
        if count < even / 2 and count + 2 * math.sqrt(count) < even
    }
    if top < _UNEVEN * least or not rare:
        return
    shown = ", ".join(f"{label} {count}" for label, count in sorted(rare.items(), key=_second)[:5])
    more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
    reason = (
        f"{name}: {len(rare)} of {kinds} values have under half of an even share ({even:,.0f} "
        f"rows): {shown}{more}; the most frequent is {most} with {top}"
    )
    yield Finding("imbalance", tuple(n for n, label in labels.items() if label in rare), reason)


def _skew(rows: Sequence[Row]) -> Iterator[Finding]:
    """A label that goes with who writes: the model would learn the writer, not the matter."""
    labels = next(
        (found for field in LABEL_FIELDS if len(found := _values(rows, field)) >= 0.5 * len(rows)),
        {row.number: row.answer.strip() for row in rows} if is_label_set(rows) else {},
    )
    for field in GROUP_FIELDS:
        groups = _values(rows, field)
        cells = {n: (groups[n], label) for n, label in labels.items() if n in groups}
        if len(cells) < 0.5 * len(rows) or not 2 <= len(set(groups.values())) <= len(cells) / 5:
            continue
        by_group = Counter(group for group, _ in cells.values())
        by_label = Counter(label for _, label in cells.values())
        for (group, label), count in sorted(Counter(cells.values()).items(), key=str):
            shares = by_group[group] / len(cells), by_label[label] / len(cells)
            due = shares[0] * shares[1] * len(cells)
            spread = math.sqrt(due * (1 - shares[0]) * (1 - shares[1]))
            if count >= _TIED * due and count - due >= _RESIDUAL * spread > 0:
                reason = (
                    f"{field!r} {group}: {count / by_group[group]:.0%} of its rows are {label!r}, "
                    f"of all rows {shares[1]:.0%}"
                )
                tied = tuple(n for n, cell in cells.items() if cell == (group, label))
                yield Finding("skew", tied, reason)


def _values(rows: Sequence[Row], field: str) -> dict[int, Any]:
    return {row.number: row.raw[field] for row in rows if _is_label(row.raw.get(field))}


def _second(pair: tuple[Any, int]) -> int:
    return pair[1]
