import re
import string

import pytest

from qlora_kit.data import bundled_data, read
from qlora_kit.evaluate import (
    Answer,
    RougeWords,
    normalize,
    score_answers,
    token_f1,
)


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("It holds 6 liters.", "it holds 6 liters", 1.0),
        ("The cat sat.", "a cat sat", 1.0),
        ("red green", "green blue", 0.5),
        ("", "something", 0.0),
        ("", "", 1.0),
        ("six six six", "six", 0.5),
        ("", "A", 0.0),
        ("The A.", "a", 2 / 3),
        ("A+", "A", 0.0),
        ("5", "-5", 0.0),
        ("minus (-5)", "Minus: -5.", 1.0),
        ("3-5 liters", "3 5 liters", 1.0),
        ("C", "C++", 0.0),
        ("Use C++, not C#.", "use C++ not C#", 1.0),
        ("1 + 1 = 2", "1 1 2", 1.0),
        ("水是红色的。", "水是红色的", 1.0),
        ("水是藍色", "水是红色", 0.75),
        ("「みず」は、あか", "みずはあか", 1.0),
        ("«Привет», мир!", "привет мир", 1.0),
    ],
)
def test_token_f1(answer, reference, score):
    assert token_f1(answer, reference) == pytest.approx(score)


def test_scores_of_known_answers():
    answers = [Answer("It is red.", True, 5), Answer("blue or green maybe", False, 64)]
    table = score_answers(answers, ["It is red", "It is green"])
    assert table["exact_match"] == [1.0, 0.0]
    assert table["stopped"] == [1.0, 0.0]
    assert table["length"] == [5.0, 64.0]
    assert table["rouge_l"][0] == pytest.approx(1.0)
    assert 0 < table["rouge_l"][1] < 0.5


@pytest.mark.parametrize(
    "text", ["水是红色的。", "Вода красная.", "पानी लाल है", "الماء أحمر", "été"]
)
def test_the_same_text_is_the_same_in_any_script(text):
    table = score_answers([Answer(text, True, 5)], [text])
    assert table["rouge_l"] == table["token_f1"] == table["exact_match"] == [1.0]
    assert score_answers([Answer("no", True, 1)], [text])["rouge_l"] == [0.0]


def test_english_is_scored_as_by_rouge_and_squad():
    from rouge_score.tokenize import tokenize

    for row in read(bundled_data("support/test.jsonl")):
        plain = re.sub(f"[{re.escape(string.punctuation)}]", " ", row.answer.lower())
        assert normalize(row.answer) == re.sub(r"\b(a|an|the)\b", " ", plain).split()
        assert RougeWords().tokenize(row.answer) == tokenize(row.answer, None)
