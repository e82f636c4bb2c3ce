import numpy as np
import pytest

from qlora_kit import KitError
from qlora_kit.data import read
from qlora_kit.export import gguf_outputs, make_prompts, merge, model_outputs, write_gguf
from qlora_kit.export.outputs import TOKEN_TEXTS
from qlora_kit.runs import load_run
from qlora_kit.serve import running_llama_cpp


@pytest.fixture(scope="module")
def tuned(tiny_run):
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def gguf(tiny_run, tmp_path_factory):
    model, tokenizer = merge(tiny_run)
    return write_gguf(model, tokenizer, tmp_path_factory.mktemp("gguf") / "model.gguf")


def test_the_prompts_take_first_and_stop_token_of_each_answer(tuned, rows):
    model, tokenizer = tuned
    prompts = make_prompts(model, tokenizer, read(rows), questions=6, places=3)
    assert [row.row for row in prompts.conversations] == [1, 5, 9, 13, 17, 21]
    assert len(prompts.prefixes) == 18
    first, _, last = (tokenizer.decode(ids) for ids in prompts.prefixes[:3])
    assert first.endswith("assistant\n")
    assert last.endswith("It is red.")  # what follows is the stop token
    assert len(prompts.texts) == len(TOKEN_TEXTS) + 6


@pytest.mark.equality
def test_the_outputs_in_llama_cpp_are_those_of_transformers(tuned, gguf, rows):
    model, tokenizer = tuned
    prompts = make_prompts(model, tokenizer, read(rows), questions=4, max_new_tokens=16)
    ours, theirs = model_outputs(model, tokenizer, prompts), gguf_outputs(gguf, prompts)
    assert np.abs(np.exp(ours.log_probs).sum(1) - 1).max() < 1e-3
    assert np.abs(np.exp(theirs.log_probs.astype(float)).sum(1) - 1).max() < 1e-6
    assert np.abs(np.exp(ours.log_probs) - np.exp(theirs.log_probs)).max() < 0.02
    assert ours.rendered == theirs.rendered
    assert ours.tokens == theirs.tokens
    assert ours.answers == theirs.answers  # text, stop and length
    assert all(answer.stopped for answer in theirs.answers)


def test_llama_cpp_that_cannot_load_says_so(gguf, tmp_path, monkeypatch):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and then nothing")
    with (
        pytest.raises(KitError, match=r"bad\.gguf is not a sound GGUF file"),
        running_llama_cpp(tmp_path / "bad.gguf"),
    ):
        pass
    with (
        pytest.raises(KitError, match="cannot load"),
        running_llama_cpp(gguf, adapter=tmp_path / "bad.gguf"),
    ):
        pass
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    with (
        pytest.raises(KitError, match=r"qlora-kit\[serve\]"),
        running_llama_cpp(tmp_path / "bad.gguf"),
    ):
        pass


def test_a_refused_request_is_one_message(gguf):
    with running_llama_cpp(gguf) as server, pytest.raises(KitError, match="refuses /completion"):
        server.ask("/completion", prompt=[10**6], n_predict=1)


def test_no_conversations_is_an_error(tuned):
    with pytest.raises(KitError, match="there are none"):
        make_prompts(*tuned, [])
