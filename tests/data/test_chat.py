from types import SimpleNamespace

import pytest

from qlora_kit import KitError
from qlora_kit.data import IGNORED, encode, encode_prompt, render, show, stop_ids
from qlora_kit.data.stop_tokens import turn_marks


def turn(role, content):
    return {"role": role, "content": content}


def learned_text(tokenizer, example):
    return tokenizer.decode([label for label in example.labels if label != IGNORED])


TALK = [turn("user", "What is it?"), turn("assistant", "A lamp.")]


def test_the_loss_sees_the_answer_and_the_stop_token_only(tokenizer):
    example = encode(tokenizer, TALK)
    assert learned_text(tokenizer, example) == "A lamp.<|im_end|>"
    assert tokenizer.decode(example.input_ids) == render(tokenizer, TALK)
    assert example.learned == sum(label != IGNORED for label in example.labels)


def test_every_assistant_turn_is_learned(tokenizer):
    talk = [turn("system", "Be brief."), *TALK, turn("user", "Whose?"), turn("assistant", "Mine.")]
    assert learned_text(tokenizer, encode(tokenizer, talk)) == "A lamp.<|im_end|>Mine.<|im_end|>"


@pytest.mark.parametrize(
    "content",
    [
        "Ein Glühwürmchen 🪲✨👩‍🔬",
        "مرحبا بالعالم",
        "def f(x):\n    return {'a': x}  # ✓",
        "日本語のテキスト",
    ],
)
def test_any_script_is_masked_to_the_letter(tokenizer, content):
    talk = [turn("system", ""), turn("user", content), turn("assistant", content)]
    assert learned_text(tokenizer, encode(tokenizer, talk)) == content + "<|im_end|>"


def test_an_answer_that_repeats_the_question_is_still_only_masked_once(tokenizer):
    talk = [turn("user", "lamp lamp"), turn("assistant", "lamp lamp")]
    example = encode(tokenizer, talk)
    assert learned_text(tokenizer, example) == "lamp lamp<|im_end|>"
    assert example.labels[: len(encode_prompt(tokenizer, talk[:1]))] == [IGNORED] * len(
        encode_prompt(tokenizer, talk[:1])
    )


def test_the_prompt_is_what_training_saw_before_the_answer(tokenizer):
    example, prompt = encode(tokenizer, TALK), encode_prompt(tokenizer, TALK[:1])
    assert example.input_ids[: len(prompt)] == prompt


def test_truncation_keeps_the_start_and_tells_the_length(tokenizer):
    example = encode(tokenizer, TALK, max_length=10)
    assert len(example.input_ids) == len(example.labels) == 10
    assert example.length == len(encode(tokenizer, TALK).input_ids)
    assert example.learned == 0


@pytest.fixture
def other(tiny):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


def test_a_template_that_never_stops_is_refused(other):
    other.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    with pytest.raises(KitError, match="would never stop"):
        encode(other, TALK)


def test_no_template_says_to_take_an_instruct_model(other):
    other.chat_template = None
    with pytest.raises(KitError, match="instruct or chat version"):
        encode(other, TALK)


def test_a_template_that_rewrites_earlier_turns_is_refused(other):
    other.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] if loop.last "
        "else m['content'][:2]) + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    with pytest.raises(KitError, match="differently once others follow"):
        encode(other, [*TALK, turn("user", "Whose?"), turn("assistant", "Mine.")])


def test_a_template_that_asks_otherwise_than_it_shows_is_refused(other):
    other.chat_template = other.chat_template.replace("assistant\n' }}", "assistant\n<think>' }}")
    with pytest.raises(KitError, match="before turn 2 differently when it asks") as caught:
        encode(other, TALK)
    assert "Split" not in str(caught.value)


def test_special_tokens_that_the_template_does_not_use_are_plain_text(other):
    assert set(turn_marks(other)) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    other.add_special_tokens({"additional_special_tokens": ["<filename>"]})
    assert "<filename>" not in turn_marks(other)


def test_a_template_that_doubles_the_bos_is_refused(other):
    other.bos_token = "<|endoftext|>"
    other.chat_template = "{{ bos_token + bos_token }}" + other.chat_template
    with pytest.raises(KitError, match="two BOS"):
        encode(other, TALK)


def test_stop_ids_count_the_generation_configs_too(tokenizer):
    model = SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=[0, tokenizer.eos_token_id])
    )
    assert stop_ids(tokenizer) == {tokenizer.eos_token_id}
    assert stop_ids(tokenizer, model) == {0, tokenizer.eos_token_id}


def test_what_the_loss_sees_is_painted(tokenizer):
    talk = [turn("user", "a < b 🪲?"), turn("assistant", "Ein 👩‍🔬\nyes")]
    example = encode(tokenizer, talk)
    painted = show(tokenizer, example)
    assert "".join(text for text, _ in painted.pieces) == tokenizer.decode(example.input_ids)
    learned = "".join(text for text, seen in painted.pieces if seen)
    assert learned == "Ein 👩‍🔬\nyes<|im_end|>"
    assert "\u00abEin 👩‍🔬\nyes<|im_end|>\u00bb" in repr(painted)
    page = painted._repr_html_()
    assert "&lt;" in page
    assert "a < b" not in page
    assert page.count('title="in the loss"') == sum(seen for _, seen in painted.pieces)


def test_a_mask_that_hides_nothing_is_refused(other):
    other.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}"
        "{% endif %}{% endfor %}"
    )
    with pytest.raises(KitError, match="see every token"):
        encode(other, TALK)
