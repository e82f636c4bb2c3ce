"""Scores of an answer against its reference, and what people call them."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ..data import spaced_words
from .generation import Answer

# Kept: a minus before a number that is no hyphen, and the + or # that ends a name (C++, F#).
# Gone: ASCII's, and those of other scripts; English curly quotes stay, as in SQuAD's script.
_PUNCTUATION = re.compile(
    r"(?P<kept>(?<![\w.-])-(?=\.?\d)|(?<=[^\W\d_])[+#]+(?!\w))"
    f"|[{re.escape(string.punctuation)}«»„¿¡،؛؟।\u3001-\u3003\u3008-\u3011\u3014-\u301f\u30fb"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)


def normalize(text: str) -> list[str]:
    """Lower case, no punctuation, no articles: the words that token F1 compares.

    What makes another thing of a word stays with it: the sign of -5, the ++ of C++; and so does
    an article that is all there is, as in the answer A of a quiz.

    Args:
        text: in any script.

    Source: the SQuAD evaluation script (Rajpurkar et al. 2016).
    """
    plain = _PUNCTUATION.sub(lambda match: match["kept"] or " ", text.lower())
    words = spaced_words(plain)
    return spaced_words(re.sub(r"\b(a|an|the)\b(?![+#])", " ", plain)) or words


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of word precision and recall, from 0 to 1.

    Args:
        answer, reference: two texts.
    """
    answer_words = normalize(answer)
    reference_words = normalize(reference)
    if not answer_words or not reference_words:
        return float(answer_words == reference_words)
    common = sum((Counter(answer_words) & Counter(reference_words)).values())
    return 2 * common / (len(answer_words) + len(reference_words))


class RougeWords:
    """What ROUGE counts; its own tokenizer deletes every letter that is not English."""

    def tokenize(self, text: str) -> list[str]:
        """Letters, marks and digits in lower case, without what stands between them.

        Args:
            text: in any script.
        """
        kinds = ((mark, unicodedata.category(mark)[0]) for mark in text.lower())
        return spaced_words("".join(mark if kind in "LMN" else " " for mark, kind in kinds))


# What people call each metric of a scoreboard, with its unit.
LABELS = {
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "exact_match": "exact match",
    "nll": "held-out NLL (nats a token)",
    "stop_rate": "stop rate",
    "mean_length": "mean length (tokens)",
    "similarity": "similarity in meaning (cosine)",
    "probe_accuracy": "general knowledge, accuracy",
    "probe_nll": "general knowledge, NLL (nats a token)",
}
# Scores of one question whose mean over all of them has a name of its own.
MEANS = {"stopped": "stop_rate", "length": "mean_length"}


def score_answers(answers: Sequence[Answer], references: Sequence[str]) -> dict[str, list[float]]:
    """One score a question for each metric.

    Args:
        answers: from `generate`.
        references: the right answers, in the same order.

    Returns:
        token_f1, rouge_l, exact_match and stopped from 0 to 1; length in tokens.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=RougeWords())
    pairs = list(zip(answers, references, strict=True))
    return {
        "token_f1": [token_f1(answer.text, reference) for answer, reference in pairs],
        "rouge_l": [scorer.score(ref, answer.text)["rougeL"].fmeasure for answer, ref in pairs],
        "exact_match": [float(normalize(a.text) == normalize(ref)) for a, ref in pairs],
        "stopped": [float(answer.stopped) for answer in answers],
        "length": [float(answer.tokens) for answer in answers],
    }
