"""llama.cpp with a model in it, in this process, asked through its HTTP server."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import KitError
from ..evaluate import Answer
from ..models import read_gguf_header


class LlamaCpp:
    """llama.cpp in this process, asked through its own local server."""

    def __init__(self, server: Any, vocabulary: int):
        self._server, self._vocabulary = server, vocabulary
        self._letter: int | None = None

    def close(self) -> None:
        """Give the model's memory back."""
        self._server = None

    def ask(self, path: str, **body: Any) -> Any:
        """What the server answers to a request.

        Args:
            path: for example "/tokenize".
            body: of the request.

        Raises:
            KitError: it refuses.
        """
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request) as reply:
                return json.loads(reply.read().decode("utf-8", "replace"))
        except urllib.error.HTTPError as problem:
            said = problem.read().decode("utf-8", "replace")[:300]
            raise KitError(f"llama.cpp refuses {path}: {said}") from problem

    def log_probs(self, prefix: Sequence[int]) -> np.ndarray:
        """The distribution of the token after a prefix, (vocabulary,) fp32 in nats.

        Args:
            prefix: token ids.
        """
        # A stop token, or half of a character, would come back without its numbers. So what is
        # sampled is forced to be a plain letter; the distribution is told as the model gives it.
        if self._letter is None:
            self._letter = self.ask("/tokenize", content="a")["tokens"][-1]
        reply = self.ask("/completion", prompt=list(prefix), n_predict=1, temperature=0,
                         n_probs=self._vocabulary, logit_bias=[[self._letter, 1e6]])  # fmt: skip
        found = np.full(self._vocabulary, -np.inf, np.float32)
        for each in reply["completion_probabilities"][0]["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        found = np.maximum(found, -1e4).astype(np.float64)
        # llama.cpp sums over the vocabulary in fp32; what is missing or too much shows in a KL.
        return (found - np.log(np.exp(found).sum())).astype(np.float32)

    def answer(self, messages: Sequence[dict[str, str]], max_new_tokens: int) -> Answer:
        """The greedy answer in a chat.

        Args:
            messages: the conversation, the user's turn last.
            max_new_tokens: where an answer that does not stop is cut.
        """
        reply = self.ask("/v1/chat/completions", messages=list(messages), temperature=0,
                         max_tokens=max_new_tokens)  # fmt: skip
        choice = reply["choices"][0]
        stopped = choice["finish_reason"] == "stop"
        text = choice["message"]["content"] or ""
        return Answer(text.strip(), stopped, reply["usage"]["completion_tokens"] - stopped)


@contextmanager
def running_llama_cpp(
    path: str | Path, adapter: str | Path | None = None, context: int = 2048
) -> Iterator[LlamaCpp]:  # fmt: skip
    """llama.cpp with a model in it, on half of the cores: idle threads spin beside busy ones.

    Args:
        path: a GGUF file.
        adapter: a GGUF adapter to put on it.
        context: tokens that a prompt and its answer may have together.

    Raises:
        KitError: xllamacpp is not installed, or llama.cpp cannot load the files.
    """
    try:
        import xllamacpp
    except ImportError as problem:
        raise KitError(
            "Checking a GGUF file takes llama.cpp: pip install 'qlora-kit[serve]'"
        ) from problem
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    params.n_ctx, params.n_parallel = context, 1
    params.warmup, params.fit_params, params.verbosity = False, False, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(
        1, (os.cpu_count() or 1) // 2
    )
    vocabulary = _vocabulary(Path(path))
    try:
        server = xllamacpp.Server(params)
    except Exception as problem:
        raise KitError(f"llama.cpp cannot load {path}: {problem}") from problem
    held = LlamaCpp(server, vocabulary)
    del server
    try:
        yield held
    finally:
        held.close()


def _vocabulary(path: Path) -> int:
    tokens = read_gguf_header(path, sizes=False).metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        raise KitError(f"{path} holds no tokens; llama.cpp cannot answer from it.")
    return len(tokens)
