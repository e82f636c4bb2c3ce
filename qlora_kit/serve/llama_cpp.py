"""llama.cpp with a model in it, in this process, asked through its HTTP server."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import KitError
from ..data import Messages
from ..evaluate import Answer
from ..machine import usable_cores
from ..models import read_gguf_header
from .client import ask, request
from .config import ServerConfig

CONNECTIONS = 64  # that llama.cpp answers at once, a thread for each; chosen by hand


def optional_package(name: str) -> Any:
    """Import a package of the extra "serve".

    Args:
        name: of the package.

    Raises:
        KitError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        raise KitError(f"This takes {name}: pip install 'qlora-kit[serve]'") from problem


def start_llama_cpp(config: ServerConfig, scale: float = 1.0, address: Path | None = None) -> Any:
    """llama.cpp in this process; it ends when nobody holds it any more.

    Args:
        config: the model, the adapters, and how much at once.
        scale: of each adapter where a request names none.
        address: a socket file to listen at; None takes a free port of this machine.

    Returns:
        The `xllamacpp.Server`.

    Raises:
        KitError: xllamacpp is not installed, or llama.cpp cannot load the files.
    """
    xllamacpp = optional_package("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(config.model.expanduser())
    params.model_alias = {config.name}  # answers name it; else they tell the file's whole path
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(str(path.expanduser()), scale)
        for path in config.adapters.values()
    ]
    if address is not None:
        params.hostnames = [str(address)]
    params.n_parallel = config.parallel
    params.n_ctx = config.context * config.parallel
    threads = config.threads or usable_cores()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_threads_http = CONNECTIONS
    # Prompts that left their slot are kept with no word of their adapter, and take gigabytes.
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.ui = False
    params.verbosity = 3 if config.verbose else 1  # 1: errors
    try:
        return xllamacpp.Server(params)
    except Exception as problem:  # which one is not documented
        raise KitError(
            f"llama.cpp cannot load {config.model}; what it says stands above, and more of it with "
            "--verbose. If memory is short, a smaller --context or --parallel helps."
        ) from problem


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp in this process, asked through its own local server. vocabulary: of the model."""

    url: str
    vocabulary: int

    def ask(self, path: str, **body: Any) -> Any:
        """What the server answers to a request.

        Args:
            path: for example "/tokenize".
            body: of the request.

        Raises:
            KitError: see `client.request`.
        """
        return request(self.url, path, body, timeout=None)

    def log_probs(self, prefix: Sequence[int]) -> np.ndarray:
        """The distribution of the token after a prefix, (vocabulary,) fp32 in nats.

        Args:
            prefix: token ids.
        """
        # A stop token, or half of a character, would come back without its numbers. So what is
        # sampled is forced to be a plain letter; the distribution comes as the model gives it.
        letter = self.ask("/tokenize", content="a")["tokens"][-1]
        options = {"n_predict": 1, "temperature": 0, "logit_bias": [[letter, 1e6]]}
        reply = self.ask("/completion", prompt=list(prefix), n_probs=self.vocabulary, **options)
        log_probs = np.full(self.vocabulary, -np.inf, np.float32)
        for token in reply["completion_probabilities"][0]["top_logprobs"]:
            log_probs[token["id"]] = token["logprob"]
        log_probs = np.maximum(log_probs, -1e4).astype(np.float64)
        # llama.cpp sums over the vocabulary in fp32; what is missing or too much shows in a KL.
        return (log_probs - np.log(np.exp(log_probs).sum())).astype(np.float32)

    def answer(self, messages: Messages, max_new_tokens: int) -> Answer:
        """The greedy answer in a chat.

        Args:
            messages: the conversation, the user's turn last.
            max_new_tokens: where an answer that does not stop is cut.

        Raises:
            KitError: see `client.request`.
        """
        return ask(self.url, messages, max_new_tokens=max_new_tokens).answer


@contextmanager
def running_llama_cpp(
    path: str | Path, adapter: str | Path | None = None, context: int = 2048
) -> Iterator[LlamaCpp]:
    """llama.cpp with a model in it, on half of the cores: idle threads spin beside busy ones.

    Args:
        path: a GGUF file.
        adapter: a GGUF adapter to put on it.
        context: tokens that a prompt and its answer may have together.

    Raises:
        KitError: xllamacpp is not installed, or llama.cpp cannot load the files.
    """
    optional_package("xllamacpp")  # where it is missing, nobody waits for the file to be read
    tokens = read_gguf_header(path, sizes=False).metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise KitError(f"{path} holds no tokens; llama.cpp cannot answer from it.")
    adapters = {} if adapter is None else {"adapter": Path(adapter)}
    half = max(1, usable_cores() // 2)
    config = ServerConfig(Path(path), adapters, parallel=1, context=context, threads=half)
    server = start_llama_cpp(config)
    try:
        yield LlamaCpp(server.listening_address, len(tokens))
    finally:
        del server  # an error's traceback would keep the model in memory
