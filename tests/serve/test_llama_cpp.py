"""How llama.cpp is started, and what is said when it is gone."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from qlora_kit import KitError
from qlora_kit.models import bundled_gguf
from qlora_kit.serve import ServerConfig, llama_cpp, running_llama_cpp
from qlora_kit.serve.llama_cpp import LlamaCpp, start_llama_cpp


@pytest.fixture
def started(monkeypatch):
    """The parameters that llama.cpp was started with."""
    started = []

    def start(params):
        started.append(params)
        return SimpleNamespace(listening_address="http://127.0.0.1:1")

    monkeypatch.setattr("xllamacpp.Server", start)
    monkeypatch.setattr(llama_cpp, "usable_cores", lambda: 6)
    return started


def test_beside_torch_it_takes_half_of_the_cores_that_this_process_may_use(started):
    with running_llama_cpp(bundled_gguf(), context=512):
        (params,) = started
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 3
    assert (params.n_ctx, params.n_parallel) == (512, 1)


def test_a_server_takes_all_of_them_and_divides_its_context(started):
    adapters = {"poet": Path("poet.gguf")}
    config = ServerConfig(Path("model.gguf"), adapters, parallel=3, context=100)
    start_llama_cpp(config, scale=0.0, address=Path("llama.sock"))
    (params,) = started
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 6
    assert (params.n_ctx, params.n_parallel) == (300, 3)
    assert params.hostnames == ["llama.sock"]
    assert params.lora_adapters[0].scale == 0.0


def test_llama_cpp_that_is_gone_is_one_sentence():
    gone = LlamaCpp("http://127.0.0.1:1", 8)
    for ask in (
        lambda: gone.ask("/tokenize", content="a"),
        lambda: gone.answer([{"role": "user", "content": "hello"}], 4),
        lambda: gone.log_probs([1, 2]),
    ):
        with pytest.raises(KitError, match="Nothing answers"):
            ask()
