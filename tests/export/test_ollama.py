import copy

from qlora_kit.export import modelfile


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
