"""Likelihoods are those of one forward pass, in windows and of answers that share a prompt."""

import json
import math

import pytest
import torch

from qlora_kit.data import IGNORED, DataError, Example, bundled_data, encode
from qlora_kit.engine import fast_generation
from qlora_kit.evaluate import (
    ProbeItem,
    negative_log_likelihood,
    perplexity,
    probe,
    read_probe,
)
from qlora_kit.evaluate.likelihood import _label_scores, _packs
from qlora_kit.models import load

TEXT = "what is the color of the light and who is asking for it again "


@pytest.fixture(scope="module")
def model(tiny):
    return load(str(tiny), "32bit")


def losses(model, ids):
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


@pytest.mark.equality
def test_one_window_is_one_forward_pass(model):
    ids = model[1](TEXT).input_ids
    expected = math.exp(losses(model[0], ids).mean().item())
    assert perplexity(*model, TEXT, window=512) == pytest.approx(expected, rel=1e-5)
    shorter = math.exp(losses(model[0], ids[:10]).mean().item())
    assert perplexity(*model, TEXT, window=512, max_tokens=10) == pytest.approx(shorter, rel=1e-5)


@pytest.mark.parametrize("stride", [3, 5, 8])
def test_overlapping_windows_count_each_token_once(model, stride):
    """The published recipe's mistake is to count the overlap twice, or the first token at all."""
    ids, window = model[1](TEXT).input_ids, 8
    total, count, scored = 0.0, 0, 1  # nothing predicts the first token
    for start in range(0, len(ids), stride):
        piece = ids[start : start + window]
        found = losses(model[0], piece)
        for offset, loss in enumerate(found.tolist(), start=start + 1):
            if offset >= scored:
                total, count, scored = total + loss, count + 1, offset + 1
        if start + window >= len(ids):
            break
        scored = max(scored, start + window) if stride < window else scored
    if stride < window:
        assert count == len(ids) - 1
    found = perplexity(*model, TEXT, window=window, stride=stride)
    assert found == pytest.approx(math.exp(total / count), rel=1e-5)


def test_more_context_is_what_overlap_buys(model):
    assert perplexity(*model, TEXT, window=8, stride=1) != perplexity(*model, TEXT, window=8)


def test_what_cannot_be_measured_is_said(model):
    with pytest.raises(DataError, match="two tokens"):
        perplexity(*model, "")
    with pytest.raises(DataError, match="window must be at least 2"):
        perplexity(*model, TEXT, window=1)
    with pytest.raises(DataError, match="stride"):
        perplexity(*model, TEXT, window=8, stride=9)


def test_a_probe_may_hold_any_separator_within_a_line(tmp_path):
    path = tmp_path / "probe.jsonl"
    path.write_text('{"question": "a\u2028b?", "choices": ["c", "d"], "answer": 1}\n\n')
    assert read_probe(path) == [ProbeItem("a\u2028b?", ("c", "d"), 1)]


ITEM = {"question": "a?", "choices": ["b", "c"], "answer": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": -1}, "'answer' is -1, but the right choice's index is from 0 to 1"),
        ({"answer": 2}, "'answer' is 2, but"),
        ({"answer": True}, "'answer' is True, but"),
        ({"answer": 1.0}, "'answer' is 1.0, but"),
        ({"answer": "c"}, "'answer' is 'c', but"),
        ({"answer": None}, "'answer' is None, but"),
        ({"choices": "ab"}, "'choices' is not a list of at least two texts"),
        ({"choices": ["b"], "answer": 0}, "'choices' is not a list of at least two texts"),
        ({"choices": ["b", 2]}, "'choices' is not a list of at least two texts"),
        ({"choices": None}, "'choices' is not a list of at least two texts"),
        ({"choices": ["b", " "]}, "turn 2 (assistant): empty"),
        ({"question": None}, "'question' is missing or not text"),
        ({"question": ["a?"]}, "'question' is missing or not text"),
        ({"question": ""}, "turn 1 (user): empty"),
        ({"question": "\ud83d"}, "turn 1 (user): half an emoji"),
    ],
)
def test_each_bad_item_of_a_probe_is_named_with_its_row(tmp_path, change, reason):
    path = tmp_path / "probe.jsonl"
    lines = [json.dumps(ITEM), json.dumps(ITEM | change), "", json.dumps(ITEM | change), "{"]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_probe(path)
    assert "3 of 4 rows cannot be used" in str(caught.value)
    assert [problem.row for problem in caught.value.problems] == [2, 4, 5]
    assert f"probe.jsonl, row 2: {reason}" in str(caught.value)


def test_a_probe_that_is_not_there_or_empty_is_one_message(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        read_probe(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_probe(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_probe(tmp_path / "empty.jsonl")


def talk(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_answers_to_one_prompt_score_as_each_alone(model):
    asked = ["what is light?", "who is it?", "what is the color?"]
    talks = [
        talk(question, answer)
        for answer in ("red", "the light", "it", "what")
        for question in asked
    ] + [talk("is it?", "what a light")]
    alone = []
    for messages in talks:
        example = encode(model[1], messages)
        scored = losses(model[0], example.input_ids)[-example.learned - 1 : -1]
        alone.append(scored.mean().item())  # the template ends with a line break after the stop
    assert negative_log_likelihood(*model, talks) == pytest.approx(alone, rel=1e-4)


def test_prompts_with_one_beginning_score_as_each_alone(model):
    system = {"role": "system", "content": "what is the color of the light and who is asking?"}
    asked = {"it?": "red", "who is it again?": "the light", "is it?": "what a light"}
    talks = [[system, *talk(question, answer)] for question, answer in asked.items()]
    alone = [negative_log_likelihood(*model, [messages])[0] for messages in talks]
    assert negative_log_likelihood(*model, talks) == pytest.approx(alone, rel=1e-4)
    examples = [encode(model[1], messages) for messages in talks]
    assert len(_packs(examples)) == 1
    assert len(_packs(examples)[0].input_ids) < 0.8 * sum(len(one.input_ids) for one in examples)


def test_a_prompt_of_one_token_keeps_its_answers_apart(model):
    """Each answer begins with it, and they must not meet."""
    answers = ([9, 11, 2], [30, 31, 32, 2])
    made = [Example([7, *answer], [IGNORED, *answer], 1 + len(answer)) for answer in answers]
    alone = [_label_scores(*model, [example])[0] for example in made]
    assert _label_scores(*model, made) == pytest.approx(alone, rel=1e-4)


def test_a_model_that_takes_no_mask_gives_the_same_scores(model):
    talks = [talk("what is light?", answer) for answer in ("red", "the light", "it")]
    shared = negative_log_likelihood(*model, talks)
    network = model[0]
    network.config._attn_implementation = "eager"
    try:
        assert negative_log_likelihood(*model, talks) == pytest.approx(shared, rel=1e-4)
    finally:
        network.config._attn_implementation = "sdpa"


def test_the_probe_takes_the_likeliest_choice_of_each_question(model):
    choices = ("red", "the light", "it")
    items = [ProbeItem(question, choices, at) for at, question in enumerate(["what?", "who?"])]
    right, surprise = probe(*model, items)
    for at, item in enumerate(items):
        nats = negative_log_likelihood(*model, [talk(item.question, one) for one in choices])
        assert right[at] == (min(range(3), key=nats.__getitem__) == item.answer)
        assert surprise[at] == pytest.approx(nats[item.answer], rel=1e-4)


@pytest.mark.equality
def test_likelihoods_equal_one_by_one_cross_entropy(real):
    model, tokenizer = real
    pairs = (
        ("Color of snow?", "White."),
        ("Why?", "Because it rains."),
        ("Count to five, please.", "One, two, three, four, five."),
    )
    talks = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in pairs
    ]
    expected = []
    with torch.inference_mode(), fast_generation(model):
        got = negative_log_likelihood(model, tokenizer, talks)
        for talk in talks:
            example = encode(tokenizer, talk)
            ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
            expected.append(model(ids, labels=labels).loss.item())
    assert got == pytest.approx(expected, rel=1e-4)


def test_the_probe_takes_the_choice_that_the_model_finds_likeliest(real):
    model, tokenizer = real
    items = read_probe(bundled_data("support/probe.jsonl"))[:6]
    with fast_generation(model):
        right, surprise = probe(model, tokenizer, items)
        for index, item in enumerate(items):
            talks = [
                [
                    {"role": "user", "content": item.question},
                    {"role": "assistant", "content": choice},
                ]
                for choice in item.choices
            ]
            nll = negative_log_likelihood(model, tokenizer, talks)
            assert right[index] == (min(nll) == nll[item.answer])
            assert surprise[index] == pytest.approx(nll[item.answer], rel=1e-3)
    assert 0 < sum(right) <= 6


def test_a_bad_probe_row_is_named(tmp_path):
    path = tmp_path / "probe.jsonl"
    good = {"question": "?", "choices": ["a", "b"], "answer": 1}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "answer": 2}) + "\n")
    with pytest.raises(DataError, match=r"probe\.jsonl, row 2"):
        read_probe(path)
