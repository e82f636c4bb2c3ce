"""The bridge to lm-evaluation-harness: offline tasks, on the adapter, with clear errors."""

import pytest

from qlora_kit import KitError
from qlora_kit.data import encode_prompt
from qlora_kit.evaluate import ProbeItem, run_tasks, write_task
from qlora_kit.models import load

ITEMS = [ProbeItem(f"Question {n}?", ("yes", "not", "red"), n % 3) for n in range(12)]


@pytest.fixture(scope="module")
def loaded(tiny):
    model, tokenizer = load(str(tiny), precision="nf4")
    return model.eval(), tokenizer


@pytest.mark.equality
@pytest.mark.parametrize("chat", [True, False])
def test_accuracy_is_what_the_likelihoods_say(loaded, tmp_path, chat):
    import torch

    model, tokenizer = loaded
    folder = write_task(ITEMS, tmp_path, "mine")
    found = run_tasks(model, tokenizer, ["mine"], folder, chat_template=chat)
    scores = {score.metric: score.value for score in found}
    right = []
    for item in ITEMS:
        begin = tokenizer(item.question).input_ids
        if chat:
            begin = encode_prompt(tokenizer, [{"role": "user", "content": item.question}])
        sums = []
        for choice in item.choices:
            ids = begin + tokenizer(choice if chat else f" {choice}").input_ids
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
            sums.append(sum(logits[at - 1, ids[at]].item() for at in range(len(begin), len(ids))))
        right.append(sums.index(max(sums)) == item.answer)
    share = sum(right) / len(right)
    assert scores["acc"] == pytest.approx(share)
    [error] = [score.error for score in found if score.metric == "acc"]
    assert error == pytest.approx((share * (1 - share) / (len(right) - 1)) ** 0.5)


def test_the_adapter_is_what_is_measured(loaded, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load(loaded[0].name_or_path, precision="nf4")
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    same = [ProbeItem(item.question, item.choices, 0) for item in ITEMS]
    folder = write_task(same, tmp_path, "mine")
    seen = set()
    for seed in range(6):  # six adapters do not all agree on every question
        torch.manual_seed(seed)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=1.0)
        seen.add(run_tasks(tuned, tokenizer, ["mine"], folder)[0].value)
        if len(seen) > 1:
            break
    assert len(seen) > 1


def test_fewer_questions_when_asked(loaded, tmp_path):
    folder = write_task(ITEMS, tmp_path, "mine")
    [score] = [s for s in run_tasks(*loaded, ["mine"], folder, limit=1) if s.metric == "acc"]
    assert score.value in (0, 1)


@pytest.mark.slow
def test_a_group_of_your_own_tasks(loaded, tmp_path):
    for name in ("first", "second"):
        write_task(ITEMS, tmp_path, name)
    (tmp_path / "both.yaml").write_text("group: both\ntask: [first, second]\n", "utf-8")
    found = run_tasks(*loaded, ["both"], tmp_path)
    assert {"first", "second"} <= {score.task for score in found}


@pytest.mark.slow
def test_errors_name_the_way_out(loaded, tmp_path, monkeypatch):
    with pytest.raises(KitError, match="No task absent"):
        run_tasks(*loaded, ["absent"], tmp_path)
    with pytest.raises(KitError, match="; --folder names"):
        run_tasks(*loaded, ["absent"])
    with pytest.raises(KitError, match="at least one question"):
        write_task([], tmp_path, "mine")
    with pytest.raises(KitError, match="letters"):
        write_task(ITEMS, tmp_path, "../mine")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KitError, match=r"qlora-kit\[harness\]"):
        run_tasks(*loaded, ["mine"], tmp_path)


def test_the_machine_is_not_asked_about_and_the_harness_is_left_as_it_was(
    loaded, tmp_path, monkeypatch
):
    from lm_eval import evaluator

    def asked(*_):
        pytest.fail("asked git or pip about the machine")

    for name in ("get_git_commit_hash", "add_env_info"):
        monkeypatch.setattr(evaluator, name, asked)
    run_tasks(*loaded, ["mine"], write_task(ITEMS, tmp_path, "mine"), limit=1)
    assert evaluator.add_env_info is evaluator.get_git_commit_hash is asked
