import json
import re
import string

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.data import Conversation, DataError, bundled_data, encode, read
from qlora_kit.engine import ready
from qlora_kit.evaluate import (
    Answer,
    ProbeItem,
    RougeWords,
    evaluate,
    generate,
    longer_than,
    negative_log_likelihood,
    normalize,
    probe,
    read_probe,
    score_answers,
    token_f1,
)
from qlora_kit.evaluate.generation import _answer
from qlora_kit.evaluate.scoreboard import _scoreboard
from qlora_kit.machine import Machine
from qlora_kit.models import load
from qlora_kit.runs import TrainConfig, as_base, load_run, trained_on
from qlora_kit.train import fine_tune

CPU = Machine("cpu", "test", "float32", 2, 8.0, 8.0)


@pytest.fixture(scope="module")
def real():
    return load("smollm2", "nf4", CPU)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(
        json.dumps({"prompt": f"Light {n}?", "completion": f"It is {c}."}) + "\n"
        for n, c in enumerate(["red", "green", "blue", "amber"] * 4)
    ))  # fmt: skip
    config = TrainConfig(data=str(rows), output=str(folder / "run"), model=str(tiny), epochs=16,
                         learning_rate=5e-3, rank=8)  # fmt: skip
    return fine_tune(config, progress=False), rows


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
    assert table["stop_rate"] == [1.0, 0.0]
    assert table["mean_length"] == [5.0, 64.0]
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


@pytest.mark.slow
def test_batched_answers_equal_those_of_each_prompt_alone(real):
    """Right padding, a wrong mask or wrong positions all show up here."""
    model, tokenizer = real
    questions = ["What is the capital of France?", "Name a color.",
                 "In one sentence, explain why the sky is blue, as you would to a child of five.",
                 "Wie heißt du? 🙂", "Write a haiku about a quiet garden in winter."]  # fmt: skip
    prompts = [[{"role": "user", "content": question}] for question in questions]
    with ready(model):
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
        with ready(model):
            torch.testing.assert_close(model(ids).logits, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.equality
def test_likelihoods_equal_one_by_one_cross_entropy(real):
    model, tokenizer = real
    pairs = (("Color of snow?", "White."), ("Why?", "Because it rains."),
             ("Count to five, please.", "One, two, three, four, five."))  # fmt: skip
    talks = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in pairs
    ]
    expected = []
    with torch.inference_mode(), ready(model):
        got = negative_log_likelihood(model, tokenizer, talks)
        for talk in talks:
            example = encode(tokenizer, talk)
            ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
            expected.append(model(ids, labels=labels).loss.item())
    assert got == pytest.approx(expected, rel=1e-4)


def test_the_probe_takes_the_choice_that_the_model_finds_likeliest(real):
    model, tokenizer = real
    items = read_probe(bundled_data("support/probe.jsonl"))[:6]
    with ready(model):
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


def test_the_scoreboard_pairs_base_and_tuned(run):
    finished, rows = run
    model, tokenizer = load_run(finished.path)
    items = [ProbeItem("Color?", ("red", "blue"), 0)]
    board = evaluate(
        model, tokenizer, read(rows), items, max_new_tokens=12, similarity=True
    ).as_json()
    assert board["n"] == 16
    assert board["tuned"]["similarity"] > board["base"]["similarity"] + 0.1
    assert set(board["mcnemar"]) == {"exact_match", "stop_rate", "probe_accuracy"}
    exact = board["mcnemar"]["exact_match"]
    assert exact["only_first"] == 0
    assert exact["only_second"] >= 1
    assert exact["p_value"] == pytest.approx(2 / 2 ** exact["only_second"])
    assert board["tuned"]["token_f1"] > board["base"]["token_f1"] + 0.3
    assert board["tuned"]["nll"] < board["base"]["nll"]
    assert board["tuned"]["stop_rate"] >= 0.9
    low, high = board["difference"]["token_f1"]["ci95"]
    assert low <= board["difference"]["token_f1"]["mean"] <= high
    assert board["difference"]["token_f1"]["mean"] == pytest.approx(
        board["tuned"]["token_f1"] - board["base"]["token_f1"]
    )
    assert set(board["examples"][0]) == {"question", "reference", "base", "tuned"}
    assert board["examples"][1]["reference"] == "It is green."
    assert {"seconds", "tokens_per_second", "peak_rss_gb"} <= set(board)


def board_of(count, **scores):
    said = [Answer("red", True, 1)] * count
    talk = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "red"})
    table = {"exact_match": [1.0] * count, **scores}
    rows = [Conversation(talk, 1)] * count
    return _scoreboard(rows, {"base": said, "tuned": said}, {"base": table, "tuned": table}, 1.0)


def test_only_what_is_right_or_wrong_gets_mcnemars_test():
    """A score between 0 and 1 may happen to be 0 or 1 for every question."""
    board = board_of(2, token_f1=[1.0, 0.0], mean_length=[1.0, 1.0])
    assert set(board.mcnemar) == {"exact_match"}


def test_a_scoreboard_of_one_question_is_still_json():
    text = json.dumps(board_of(1).as_json(), allow_nan=False)
    assert json.loads(text)["difference"]["exact_match"] == {"mean": 0.0, "ci95": None}


def test_rows_that_were_trained_on_are_counted(run, tmp_path):
    finished, rows = run
    conversations = read(rows)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(rows.read_bytes())
    assert trained_on(finished.path, copy, conversations) == 16
    other = '{"prompt": "Light 99?", "completion": "It is red."}\n'
    copy.write_text("".join(rows.read_text().splitlines(True)[:3]) + other)
    assert trained_on(finished.path, copy, read(copy)) == 3
    copy.write_text(other)
    assert trained_on(finished.path, copy, read(copy)) == 0
    (tmp_path / "config.yaml").touch()  # a run of an earlier version has no manifest
    assert trained_on(tmp_path, rows, conversations) == 0


def test_references_that_do_not_fit_are_counted(run, tokenizer):
    rows = read(run[1])
    length = len(tokenizer(rows[0].answer, add_special_tokens=False).input_ids)
    assert longer_than(tokenizer, rows[:1], length) == 0
    assert longer_than(tokenizer, rows[:1], length - 1) == 1


def test_a_fully_tuned_model_has_no_base_in_it():
    with pytest.raises(KitError, match="All weights of this run were trained"):
        as_base(torch.nn.Linear(1, 1))


def test_what_is_not_a_run_is_said(tmp_path, run):
    with pytest.raises(KitError, match="not a finished run"):
        load_run(tmp_path)
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(run[0].path, broken)
    (broken / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(KitError, match=r"adapter .* cannot be loaded"):
        load_run(broken)
