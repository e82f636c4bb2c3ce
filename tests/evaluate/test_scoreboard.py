import json

import pytest
import torch

from qlora_kit import KitError
from qlora_kit.audit import trained_on
from qlora_kit.data import Conversation, read
from qlora_kit.evaluate import (
    Answer,
    ProbeItem,
    evaluate,
    evaluate_run,
    scoreboard,
)
from qlora_kit.evaluate.scoreboard import _scoreboard
from qlora_kit.runs import Run, as_base, load_run, open_run


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
    assert {"seconds", "generation_tokens_per_second", "peak_rss_gb"} <= set(board)


def board_of(count, **scores):
    said = [Answer("red", True, 1)] * count
    talk = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "red"})
    table = {"exact_match": [1.0] * count, **scores}
    rows = [Conversation(talk, 1)] * count
    return _scoreboard(rows, {"base": said, "tuned": said}, {"base": table, "tuned": table})


def test_the_speed_of_generation_is_measured_around_generation(run, monkeypatch):
    """Likelihoods take time, too, and generate nothing."""
    finished, rows = run
    model, tokenizer = load_run(finished.path)
    clock = [0.0]

    def takes(seconds, result):
        def pretended(*_):
            clock[0] += seconds
            return result

        return pretended

    monkeypatch.setattr(scoreboard.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(scoreboard, "generate", takes(2.0, [Answer("red", True, 5)] * 16))
    monkeypatch.setattr(scoreboard, "negative_log_likelihood", takes(10.0, [1.0] * 16))
    board = evaluate(model, tokenizer, read(rows))
    assert board.generation_tokens_per_second == 2 * 16 * 5 / 4.0
    assert board.seconds >= 24
    assert board.training_tokens_per_second is None


def test_a_run_is_evaluated_with_a_word_about_leaks_and_long_answers(run, tmp_path):
    finished, rows = run
    with pytest.warns(UserWarning, match=r"16 of 16 rows .* TRAINED ON") as warned:
        board = evaluate_run(finished.path, rows, max_new_tokens=1)
    assert any("16 of 16 reference answers are longer" in str(each.message) for each in warned)
    assert (board.n, board.trained_on) == (16, 16)
    assert "probe_accuracy" not in board.base


def test_only_what_is_right_or_wrong_gets_mcnemars_test():
    """A score between 0 and 1 may happen to be 0 or 1 for every question."""
    board = board_of(2, token_f1=[1.0, 0.0], length=[1.0, 1.0])
    assert set(board.mcnemar) == {"exact_match"}
    assert board.base["mean_length"] == 1


def test_a_scoreboard_of_one_question_is_still_json():
    text = json.dumps(board_of(1).as_json(), allow_nan=False)
    assert json.loads(text)["difference"]["exact_match"] == {
        "mean": 0.0,
        "ci95": None,
        "method": "endless, from one question",
    }


def test_rows_that_were_trained_on_are_counted(run, tmp_path):
    finished, rows = run
    conversations, opened = read(rows), open_run(finished.path)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(rows.read_bytes())
    assert trained_on(opened, copy, conversations) == 16
    other = '{"prompt": "Light 99?", "completion": "It is red."}\n'
    copy.write_text("".join(rows.read_text().splitlines(True)[:3]) + other)
    assert trained_on(opened, copy, read(copy)) == 3
    first = read(rows)[0]
    spelled = {"prompt": f"  {first.question.upper()}!", "completion": first.answer}
    copy.write_text(other + json.dumps(spelled) + "\n")
    assert trained_on(opened, copy, read(copy)) == 1
    copy.write_text(other)
    assert trained_on(opened, copy, read(copy)) == 0
    without = Run(tmp_path, opened.config)  # as a run of an earlier version, with no manifest
    assert trained_on(without, rows, conversations) == 0


def test_a_fully_tuned_model_has_no_base_in_it():
    with pytest.raises(KitError, match="All weights of this run were trained"):
        as_base(torch.nn.Linear(1, 1))


def test_what_is_not_a_run_is_said(tmp_path, run):
    with pytest.raises(KitError, match="not a run"):
        load_run(tmp_path)
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(run[0].path, broken)
    (broken / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(KitError, match=r"adapter .* cannot be loaded"):
        load_run(broken)
