import copy
import json
import shutil

import yaml

from qlora_kit.export import Parity, model_card, modelfile
from qlora_kit.runs import load_config
from tests.export.comparisons import CLOSE, step

PARITY = Parity(8, 0.5, (step(CLOSE),))


def test_the_card_tells_data_base_settings_scores_and_license(tiny_run, tmp_path):
    folder = tmp_path / "lights"
    shutil.copytree(tiny_run, folder)
    board = {"n": 12, "base": {"token_f1": 0.1}, "tuned": {"token_f1": 0.5},
             "difference": {"token_f1": {"mean": 0.4, "ci95": [0.3, 0.5]}}}  # fmt: skip
    (folder / "scoreboard.json").write_text(json.dumps(board))
    config = load_config(folder / "config.yaml", model="smollm2")
    card = model_card(folder, config, "Weights.", PARITY)
    head = yaml.safe_load(card.split("---")[1])
    assert head == {
        "license": "apache-2.0",
        "base_model": "smollm2",
        "tags": ["qlora", "qlora-kit"],
    }
    assert "- Data: `rows.jsonl`. 72 steps" in card  # no path of this machine
    assert "| rank | 8 |" in card
    assert "| token F1 | 0.100 | 0.500 | +0.400 [+0.300, +0.500] |" in card
    assert "| step | " in card
    board["difference"]["token_f1"]["ci95"] = None  # of a single question
    (folder / "scoreboard.json").write_text(json.dumps(board))
    assert "+0.400 [-inf, +inf] |" in model_card(folder, config, "Weights.", PARITY)


def test_a_card_without_scoreboard_or_known_license_says_so(tiny_run):
    config = load_config(tiny_run / "config.yaml")
    card = model_card(tiny_run, config, "Weights.", PARITY)
    assert "Scoreboard" not in card
    assert "license: other" in card
    assert "not known here" in card
    assert "license: mit" in model_card(tiny_run, config, "Weights.", PARITY, "MIT")


def test_the_modelfile_wraps_turns_as_the_template_does(tokenizer):
    text = modelfile(tokenizer, "model.gguf", "adapter.gguf", "Be brief.")
    assert text.startswith("FROM ./model.gguf\nADAPTER ./adapter.gguf\nTEMPLATE ")
    assert '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ else }}' in text
    assert '{{ end }}<|im_start|>assistant\n"""' in text
    assert 'SYSTEM """Be brief."""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text


def test_a_default_system_prompt_comes_along(tokenizer, monkeypatch):
    default = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nAnswer.<|im_end|>\n{% endif %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", default + tokenizer.chat_template)
    assert 'SYSTEM """Answer."""' in modelfile(tokenizer, "model.gguf")


def test_llamas_template_begins_without_the_token_that_ollama_adds(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    llama = (
        "<|endoftext|>{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer.chat_template, tokenizer.bos_token = llama, "<|endoftext|>"
    text = modelfile(tokenizer, "model.gguf")
    assert '{{ if eq .Role "system" }}[system]{{ .Content }}<|im_end|>{{ else }}' in text
    assert "<|endoftext|>" not in text


def test_a_template_that_does_more_is_left_to_the_gguf(tokenizer, monkeypatch):
    shouts = tokenizer.chat_template.replace(
        "+ message['content'] +", "+ message['content'] + loop.index|string +"
    )
    monkeypatch.setattr(tokenizer, "chat_template", shouts)
    text = modelfile(tokenizer, "model.gguf")
    assert "TEMPLATE" not in text
    assert "takes the GGUF's own" in text
