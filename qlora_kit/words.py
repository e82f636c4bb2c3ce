"""The words of a text in any script: what scores compare, and what documents are measured in."""

import re
import string
import unicodedata
from collections import Counter

# Chinese characters and kana: nothing stands between their words, so each counts as one.
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Kept: a minus before a number that is no hyphen, and the + or # that ends a name (C++, F#).
# Gone: ASCII's, and those of other scripts; English curly quotes stay, as in SQuAD's script.
_PUNCTUATION = re.compile(
    r"(?P<kept>(?<![\w.-])-(?=\.?\d)|(?<=[^\W\d_])[+#]+(?!\w))"
    f"|[{re.escape(string.punctuation)}«»„¿¡،؛؟।\u3001-\u3003\u3008-\u3011\u3014-\u301f\u30fb"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)


def spaced_words(text: str) -> list[str]:
    """What spaces separate; a Chinese character or a kana is a word of its own.

    Args:
        text: in any script.
    """
    return _UNSPACED.sub(r" \g<0> ", text).split()


def normalize(text: str) -> list[str]:
    """Lower case, no punctuation, no articles: the words that token F1 compares.

    What makes another thing of a word stays with it: the sign of -5, the ++ of C++; and so does
    an article that is all there is, as in the answer A of a quiz.

    Args:
        text: in any script.

    Source: the SQuAD evaluation script (Rajpurkar et al. 2016).
    """
    plain = _PUNCTUATION.sub(lambda found: found["kept"] or " ", text.lower())
    words = spaced_words(plain)
    return spaced_words(re.sub(r"\b(a|an|the)\b(?![+#])", " ", plain)) or words


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of word precision and recall, from 0 to 1.

    Args:
        answer, reference: two texts.
    """
    said, wanted = normalize(answer), normalize(reference)
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


class RougeWords:
    """What ROUGE counts; its own tokenizer deletes every letter that is not English."""

    def tokenize(self, text: str) -> list[str]:
        """Letters, marks and digits in lower case, without what stands between them.

        Args:
            text: in any script.
        """
        kinds = ((mark, unicodedata.category(mark)[0]) for mark in text.lower())
        return spaced_words("".join(mark if kind in "LMN" else " " for mark, kind in kinds))
