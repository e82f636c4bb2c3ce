"""What is unusual for the set itself: a language, a length."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from statistics import median
from typing import Any

from .findings import Finding, Row
from .similarity import split_words

_LANGUAGES = (
    "ar bg bn ca cs da de el en es et fa fi fr he hi hr hu id it ja ko lt lv nl no pl pt ro ru sk "
    "sl sv sw ta th tr uk vi zh"
)
# Chosen by hand, _ASKED to _SOUNDS for time; tests/audit/test_outliers.py and test_pipeline.py hold
# what they do.
_FEW = 20  # texts of a known language, or of any length, from which some are unusual
_SAMPLE = 300  # characters that are enough to know a language
_ASKED = 2000  # rows whose language says which ones belong to the set, and how those sound
_USUAL = 0.01  # a word in this share of those rows is usual there
_GLANCE = 100  # characters whose words are looked up among the usual ones ...
_SOUNDS = 0.4  # ... of which a text in the set's language has this share
_LETTERS = 20  # fewer letters are names and codes as often as language
_SURE = 0.9  # certainty of the detector from which a language is believed
_AT_HOME = 0.1  # a language with this share of the rows belongs to the set
_FACTOR = 5.0  # times shorter or longer than the median ...
_NORMAL = 1.4826  # median absolute deviations in a normal distribution's standard deviation
_SPREADS = 4.0  # ... and so many robust standard deviations away, on a logarithmic scale


def outlier_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Languages and lengths that the set does not have otherwise.

    Args:
        rows: of the whole set.
    """
    for kind, outliers in (("language_outlier", _languages), ("length_outlier", _lengths)):
        reasons: dict[int, str] = {}
        for side in ("question", "answer"):
            for place, reason in outliers([getattr(row, side) for row in rows]):
                reasons.setdefault(rows[place].number, f"its {side} {reason}")
        for number, reason in sorted(reasons.items()):
            yield Finding(kind, (number,), reason)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(_LANGUAGES.split())
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


def _languages(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    sample = texts[:: max(1, len(texts) // _ASKED)]
    languages = {text: language_of(text) for text in sample}
    counts = Counter(languages[text] for text in sample if languages[text])
    home = {name for name, count in counts.items() if count >= _AT_HOME * counts.total()}
    if counts.total() < _FEW or not home:
        return
    usual = _usual_words([text for text, language in languages.items() if language in home])
    for place, text in enumerate(texts):
        if text not in languages and _share(text, usual) >= _SOUNDS:
            continue  # to ask for each would take most of the audit's time
        language = languages[text] if text in languages else language_of(text)
        if language and language not in home:
            yield place, f"is {language!r}; the set's: {', '.join(sorted(home))}"


def _usual_words(texts: Sequence[str]) -> set[str]:
    counts = Counter(word for text in texts for word in set(split_words(text[:_SAMPLE])))
    return {word for word, count in counts.items() if count >= _USUAL * len(texts)}


def _share(text: str, usual: set[str]) -> float:
    words = split_words(text[:_GLANCE])
    return sum(word in usual for word in words) / max(len(words), 1)


def _lengths(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    lengths = [len(text.strip()) for text in texts]
    logs = {place: math.log(length) for place, length in enumerate(lengths) if length}
    if len(logs) < _FEW:
        return
    middle = median(logs.values())
    spread = _NORMAL * median(abs(value - middle) for value in logs.values())
    least = max(math.log(_FACTOR), _SPREADS * spread)
    for place, value in logs.items():
        if abs(value - middle) >= least:
            half = f"half of the set's have up to {math.exp(middle):,.0f}"
            yield place, f"has {lengths[place]:,} characters; {half}"
