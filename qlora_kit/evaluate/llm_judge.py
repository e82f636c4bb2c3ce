"""A model as the judge of two answers: asked in both orders, and never the headline."""

from collections.abc import Sequence
from dataclasses import dataclass

from .. import KitError
from ..data import encode_prompt
from ..models import Model, Tokenizer

INSTRUCTION = (
    "Question: {question}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\n"
    "Which answer is better? Reply with A or B only."
)


@dataclass(frozen=True)
class Verdict:
    """What the judge said.

    winner: "first", "second", or "undecided" when it changed its mind with the order.
    preference: the mean over both orders of its probability for the first answer, 0 to 1.
    position_bias: by how much it favors what stands first, -1 to 1.
    """

    winner: str
    preference: float
    position_bias: float


def judge(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
) -> list[Verdict]:
    """Let a model choose between two answers to each question, in both orders.

    Judges favor what they read first (or last), and small ones hardly read at all. So each pair
    is shown twice, and only a verdict that survives the swap counts. Look at position_bias
    before you look at anything else.

    Args:
        model, tokenizer: the judge, from `models.load`; not the model that is judged.
        questions: what was asked.
        first, second: the two answers, in the order of the questions.

    Returns:
        One verdict a question.

    Raises:
        KitError: lists of different length.

    Source: order swapping as in Zheng et al. 2023, "Judging LLM-as-a-Judge", section 3.4.
    """
    if not len(questions) == len(first) == len(second):
        raise KitError(
            f"Each question needs two answers: got {len(questions)} questions, {len(first)} first "
            f"and {len(second)} second answers."
        )
    verdicts = []
    for question, one, other in zip(questions, first, second, strict=True):
        straight = _chance_of_a(model, tokenizer, question, one, other)
        swapped = _chance_of_a(model, tokenizer, question, other, one)
        preference = (straight + 1 - swapped) / 2
        winner = "undecided"
        if (straight > 0.5) != (swapped > 0.5):
            winner = "first" if straight > 0.5 else "second"
        verdicts.append(Verdict(winner, preference, straight + swapped - 1))
    return verdicts


def _chance_of_a(model: Model, tokenizer: Tokenizer, question: str, a: str, b: str) -> float:
    """The judge's probability of A, of what it gives to A and B together."""
    import torch

    content = INSTRUCTION.format(question=question, first=a, second=b)
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": content}])
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "AB"]
    ids = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, -1, letters].float()
    return logits.softmax(0)[0].item()
