import pytest
import torch

from qlora_kit.data import encode, read
from qlora_kit.engine import fast_generation
from qlora_kit.evaluate import (
    Answer,
    generate,
    longer_than,
)
from qlora_kit.evaluate.generation import _answer


@pytest.mark.slow
def test_batched_answers_equal_those_of_each_prompt_alone(real):
    """Right padding, a wrong mask or wrong positions all show up here."""
    model, tokenizer = real
    questions = [
        "What is the capital of France?",
        "Name a color.",
        "In one sentence, explain why the sky is blue, as you would to a child of five.",
        "Wie heißt du? 🙂",
        "Write a haiku about a quiet garden in winter.",
    ]
    prompts = [[{"role": "user", "content": question}] for question in questions]
    with fast_generation(model):
        together = generate(model, tokenizer, prompts, max_new_tokens=24)
        alone = [generate(model, tokenizer, [prompt], max_new_tokens=24)[0] for prompt in prompts]
    assert together == alone
    assert "Paris" in together[0].text


def test_an_answer_that_ends_by_itself_is_told_from_one_that_was_cut(tokenizer):
    words = tokenizer("It is red.", add_special_tokens=False)["input_ids"]
    stop, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    whole = _answer(tokenizer, [*words, stop, pad, pad], {stop})
    assert whole == Answer("It is red.", True, len(words))
    assert _answer(tokenizer, words, {stop}) == Answer("It is red.", False, len(words))


@pytest.mark.equality
def test_the_dense_cache_answers_as_the_4_bit_model_does(real):
    model, tokenizer = real
    talk = [
        {"role": "user", "content": "What is rain?"},
        {"role": "assistant", "content": "Water."},
    ]
    ids = torch.tensor([encode(tokenizer, talk).input_ids])
    with torch.inference_mode():
        expected = model(ids).logits
        with fast_generation(model):
            torch.testing.assert_close(model(ids).logits, expected, atol=2e-3, rtol=1e-3)


def test_references_that_do_not_fit_are_counted(run, tokenizer):
    rows = read(run[1])
    length = len(tokenizer(rows[0].answer, add_special_tokens=False).input_ids)
    assert longer_than(tokenizer, rows[:1], length) == 0
    assert longer_than(tokenizer, rows[:1], length - 1) == 1
