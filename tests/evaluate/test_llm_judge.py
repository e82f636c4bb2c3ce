"""A verdict counts only when it survives the swap."""

from types import SimpleNamespace

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.evaluate import judge
from qlora_kit.models import load


class Scripted:
    """A judge whose logit for A is a function of the two answers it is shown."""

    device = "cpu"

    def __init__(self, tokenizer, favor):
        self.tokenizer, self.favor = tokenizer, favor
        self.a, self.b = (tokenizer(x, add_special_tokens=False)["input_ids"][0] for x in "AB")

    def __call__(self, input_ids, use_cache):
        text = self.tokenizer.decode(input_ids[0])
        first, second = text.split("Answer A: ")[1].split("Answer B: ")
        logits = torch.zeros(1, 1, 60000)
        logits[0, 0, self.a] = self.favor(first, second.split("Which answer")[0])
        return SimpleNamespace(logits=logits)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load(str(tiny), precision="32bit")[1]


def test_a_judge_that_reads_is_followed(tokenizer):
    longer = Scripted(tokenizer, lambda a, b: float(len(a.split()) - len(b.split())))
    verdicts = judge(longer, tokenizer, ["q", "q"], ["one two three", "one"], ["one", "one two"])
    assert [verdict.winner for verdict in verdicts] == ["first", "second"]
    assert all(abs(verdict.position_bias) < 0.2 for verdict in verdicts)


def test_a_judge_that_likes_the_first_place_decides_nothing(tokenizer):
    verdicts = judge(Scripted(tokenizer, lambda a, b: 3.0), tokenizer, ["q"], ["x"], ["y"])
    assert verdicts[0].winner == "undecided"
    assert verdicts[0].position_bias > 0.8
    assert verdicts[0].preference == pytest.approx(0.5)


def test_each_question_needs_two_answers(tokenizer):
    with pytest.raises(KitError, match="2 questions, 2 first and 1 second"):
        judge(Scripted(tokenizer, lambda a, b: 3.0), tokenizer, ["q", "q"], ["x", "x"], ["y"])


def test_a_real_model_can_judge(tiny):
    [verdict] = judge(*load(str(tiny), precision="nf4"), ["Is it red?"], ["Yes."], ["Blue."])
    assert 0 <= verdict.preference <= 1
