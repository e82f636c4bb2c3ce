"""How alike two texts are.

Two numbers are never "nearly" the same, and a word that everybody uses says little: that is
what keeps two questions of one template apart, and two spellings of one question together.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from rapidfuzz.distance import OSA

from ..data import HANGUL, WORD_SIGNS

_ALONE = WORD_SIGNS + HANGUL  # a syllable of Korean too: with another particle it is the same word
# Vowel signs and accents that stand beside their letter, as in Devanagari; and its joiners.
_MARKS = "\u200c\u200d" + "".join(
    chr(code) for code in range(0x300, 0x1E00) if unicodedata.category(chr(code)).startswith("M")
)
_LETTERS = rf"(?:[^\W\d_{_ALONE}][{_MARKS}]*)+"
# Signs that ask for something else: 12 + 4 or 12 * 4, C or C++, 5 or -5. Elsewhere such a sign is
# layout (a bullet, a table, bold type), and a hyphen or a slash between words says little.
_SIGNS = "|".join(
    (
        r"(?<=[^\W_])[-!/]*[+*^=<>|&]+[-!/]*(?=[^\W_])",
        r"(?<=[^\W_] )[-!/]*[+*^=<>|&]+[-!/]*(?= [^\W_])",
        r"(?<=[\d)])/(?=[\d(])|(?<=[\d)] )/(?= [\d(])",
        r"(?<=[^\W_])[+#]+(?![^\W_])",
        r"(?<![^\W_])(?<!\d )-(?=\d)",
        r"[$\u20ac\xa3\xa5\u20b9\xd7\xf7\xb1\u2212]|(?<=\d)%|(?<=\d )%",
        "[\u2190-\u2bff\U0001f000-\U0001faff]",  # arrows, comparisons, emoji
    )
)
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{_ALONE}]|{_LETTERS}(?:['\u2019]{_LETTERS})*|{_SIGNS}")
_UNSEEN = str.maketrans("", "", "'\u2019\u200c\u200d")
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")


def word_set(words: str) -> frozenset[str]:
    """The words of a list.

    Args:
        words: with spaces between them.
    """
    return frozenset(words.split())


# A question is the same with and without them.
COURTESIES = word_set("hi hello hey dear please pls kindly thanks thank thx cheers regards")


@dataclass(frozen=True, slots=True)
class Words:
    """A text as its different words, its numbers, and all words in their order."""

    all: frozenset[str]
    numbers: tuple[str, ...]
    order: tuple[str, ...]


def split_words(text: str) -> list[str]:
    """The words of a text, without case, punctuation and apostrophes; numbers in one form.

    Emoji, and signs that calculate, compare or belong to a name (C++), are words too.

    Args:
        text: in any script.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word if word.isalpha() else _one_form(word) for word in words]


@lru_cache(maxsize=100_000)
def _one_form(word: str) -> str:
    return _number(word) if word[0].isdigit() else word.translate(_UNSEEN)


def _number(word: str) -> str:
    if _THOUSANDS.fullmatch(word):
        plain = word.replace(",", "")
    else:  # "1,5" as most of Europe writes it; "1,2,3" stays what it is
        plain = word.replace(",", ".") if word.count(",") == 1 and "." not in word else word
    if "," in plain or plain.count(".") > 1 or not plain.isascii() or len(plain) > 15:
        return plain  # a version, or an identifier
    whole, _, rest = plain.partition(".")
    rest = rest.rstrip("0")
    return f"{whole.lstrip('0') or '0'}.{rest}" if rest else whole.lstrip("0") or "0"


def words_of(text: str) -> Words:
    """A text as its words and numbers.

    Args:
        text: in any script.
    """
    words = split_words(text)
    numbers = tuple(sorted(word for word in words if word[0].isdigit()))
    order = tuple(word for word in words if word not in COURTESIES) or tuple(words)
    return Words(frozenset(order), numbers, order)


def layout(text: str) -> tuple[int, ...]:
    """How far each line is indented, () for prose: in code it is part of what is said.

    Args:
        text: of any kind.
    """
    if "\n " not in text and "\n\t" not in text:
        return ()
    lines = [line for line in text.strip("\n").expandtabs().split("\n") if line.strip()]
    return tuple(len(line) - len(line.lstrip()) for line in lines)


class Idf:
    """How much each word says: the logarithm of how few texts use it (IDF).

    Args:
        texts: the set, as words.
    """

    def __init__(self, texts: Iterable[Words]) -> None:
        words = [text.all for text in texts]
        self.total = len(words)
        self.counts = Counter(chain.from_iterable(words))
        self._idf = {word: math.log1p(self.total / count) for word, count in self.counts.items()}
        self._unseen = math.log1p(max(self.total, 1))

    def __getitem__(self, word: str) -> float:
        return self._idf.get(word, self._unseen)

    def rare(self, word: str) -> bool:
        """Whether hardly any text has this word, as is usual for a typing error.

        Args:
            word: from `split_words`.
        """
        return self.counts[word] <= max(1, self.total // 400)


def likeness(one: Words, two: Words, idf: Idf) -> float:
    """The weighted share of words that two texts have in common, typing errors forgiven.

    Args:
        one, two: the texts.
        idf: of the set that they are from.

    Returns:
        From 0 (no word in common) to 1 (the same words, in any order).
    """
    shared, left, right = _compare(one, two, idf)
    return shared / (shared + left + right) if shared else float(one.all == two.all)


def exchange(one: Words, two: Words, idf: Idf) -> float:
    """The weighted share of words that stand in the place of others, not beside them.

    Args:
        one, two: the texts.
        idf: of the set that they are from.

    Returns:
        From 0 (one text only adds to the other) to 0.5 (no word in common).
    """
    shared, left, right = _compare(one, two, idf)
    return min(left, right) / (shared + left + right) if left and right else 0.0


def overlap(one: Words, two: Words, idf: Idf) -> float:
    """The weighted share of the shorter text's words that the other has too.

    Args:
        one, two: the texts.
        idf: of the set that they are from.
    """
    shared, left, right = _compare(one, two, idf)
    return shared / (shared + min(left, right)) if shared else 0.0


def _compare(one: Words, two: Words, idf: Idf) -> tuple[float, float, float]:
    """The weights of what two texts share, of the rest of the first, and of the second."""
    common = one.all & two.all
    left, right = one.all - common, two.all - common
    shared = sum(idf[word] for word in common)
    for word in sorted(left) if left and right else ():
        twin = next((other for other in sorted(right) if _typo(word, other, idf)), None)
        if twin is not None:
            shared += min(idf[word], idf[twin])
            left, right = left - {word}, right - {twin}
    return shared, sum(idf[word] for word in left), sum(idf[word] for word in right)


def _typo(one: str, two: str, idf: Idf) -> bool:
    """Whether one letter more, less or other, or two swapped, makes one word of the other."""
    if abs(len(one) - len(two)) > 1 or one[0].isdigit() or two[0].isdigit():
        return False
    short = min(len(one), len(two))
    if short < 2 or not (idf.rare(one) or idf.rare(two)):
        return False  # "left" and "lift" are both words that others use
    return _one_edit(one, two)


def _one_edit(one: str, two: str) -> bool:
    """Whether one sign more, less or other, or two neighbors swapped, makes the other."""
    return OSA.distance(one, two, score_cutoff=1) <= 1


def same_numbers(one: Words, two: Words) -> bool:
    """Whether two texts have the same numbers, one mistyped digit among many forgiven.

    Args:
        one, two: the texts.
    """
    if one.numbers == two.numbers:
        return True
    many = len(one.numbers) >= 4 and min(len(one.all), len(two.all)) >= 20
    if not many or len(one.numbers) != len(two.numbers):
        return False
    left, right = Counter(one.numbers), Counter(two.numbers)
    only = [*(left - right).elements()], [*(right - left).elements()]
    # Another digit in a short number is a count, not a typing error.
    return (
        [len(part) for part in only] == [1, 1]
        and min(len(only[0][0]), len(only[1][0])) >= 3
        and _one_edit(only[0][0], only[1][0])
    )


def reordered(one: Words, two: Words) -> str:
    """How the words that two texts share stand in another order.

    Args:
        one, two: the texts.

    Returns:
        "exchanged" when two parts stand in each other's place around a third, which makes
        another question of it (from A to B, from B to A), or when numbers follow each other
        differently; "moved" for another order that may say the same; "" for none.
    """
    common = one.all & two.all
    left = [word for word in one.order if word in common]
    right = [word for word in two.order if word in common]
    if left == right or Counter(left) != Counter(right):
        return ""
    digits = [[word for word in part if word[0].isdigit()] for part in (left, right)]
    if digits[0] != digits[1]:
        return "exchanged"
    while left[0] == right[0]:
        left, right = left[1:], right[1:]
    while left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    first = next((n for n in range(1, len(left)) if right[-n:] == left[:n]), 0)
    last = next((n for n in range(1, len(left)) if right[:n] == left[-n:]), 0)
    middle = left[first : len(left) - last]
    swapped = first and last and middle and right[last : len(right) - first] == middle
    return "exchanged" if swapped else "moved"


def components(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of what is connected, directly or through others.

    Args:
        pairs: what is connected.

    Returns:
        The groups, in the order of their least members, each in order.
    """
    from scipy.cluster.hierarchy import DisjointSet

    edges = list(pairs)
    groups = DisjointSet(sorted({each for edge in edges for each in edge}))
    for one, two in edges:
        groups.merge(one, two)
    return [sorted(group) for group in groups.subsets()]
