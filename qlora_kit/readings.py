"""What a model says, read in one way from transformers and from llama.cpp, to be compared.

A sheet fixes what both are asked: held-out conversations and places in their answers. A reading
holds the next-token distribution at each place, the answers, the rendered prompts and tokens.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import KitError
from .chat import IGNORED, encode, render, stop_ids
from .data import Conversation
from .evaluate import MAX_NEW_TOKENS, Answer, generate, ready
from .gguf_header import read_gguf_header

# Where tokenizers differ: emoji of several code points, code, digits, spaces, other scripts.
TOKEN_TEXTS = (
    "Hello, world! It's 3.14159 or 1,234,567 of 2026-01-31.",
    "👩‍🚀 launches 🚀🚀 at 🇪🇺, 1️⃣ time ❤️‍🔥!",
    'def f(x: int) -> str:\n\treturn f"{x!r:>10}"  # tab, quotes\n\n\n    if x != 0x1F:\n',
    "Größe, façade, Ærø, Żółć, İstanbul; «oui» — „nein“ … don\u2019t",
    "漢字とひらがな、カタカナ。 中文字符没有空格。 한국어 문장입니다.",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया। สวัสดีชาวโลก",  # noqa: RUF001
    "  two  spaces,   three, trailing   \n \n\t\t\r\nCRLF  ",
    '<html><b>&amp;</b></html> {"a": [1, null, true]} SELECT * FROM t WHERE x>=10;',
)


@dataclass(frozen=True)
class Sheet:
    """What every model is asked.

    conversations: held out, each with its answer.   prefixes: token ids; what follows each is
    predicted.   texts: to be tokenized: TOKEN_TEXTS and the rendered prompts.
    """

    conversations: tuple[Conversation, ...]
    prefixes: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    max_new_tokens: int = MAX_NEW_TOKENS


@dataclass(frozen=True)
class Reading:
    """What one model said. log_probs: (prefixes, vocabulary) fp32, in nats."""

    log_probs: np.ndarray
    answers: tuple[Answer, ...]
    prompts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]


def make_sheet(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    questions: int = 32,
    places: int = 4,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Sheet:
    """Choose questions at even distances, and places at even distances in their answers.

    Args:
        model, tokenizer: of the run whose export is checked.
        conversations: held out.
        questions: how many to take.
        places: next tokens to compare in each answer, the first and the stop among them.
        max_new_tokens: where an answer that does not stop is cut.

    Raises:
        KitError: no conversations.
    """
    if not conversations:
        raise KitError("The parity report needs held-out conversations; there are none.")
    count = min(questions, len(conversations))
    chosen = [conversations[i * len(conversations) // count] for i in range(count)]
    stops = stop_ids(tokenizer, model)
    prefixes = []
    for row in chosen:
        example = encode(tokenizer, row.messages, stops=stops)
        learned = [i for i, label in enumerate(example.labels) if label != IGNORED and i]
        picks = np.linspace(0, len(learned) - 1, min(places, len(learned)))
        prefixes += [tuple(example.input_ids[: learned[round(pick)]]) for pick in picks]
    prompts = [render(tokenizer, row.messages[:-1], answer_next=True) for row in chosen]
    return Sheet(tuple(chosen), tuple(prefixes), (*TOKEN_TEXTS, *prompts), max_new_tokens)


def read_model(model: Any, tokenizer: Any, sheet: Sheet) -> Reading:
    """Read a model in transformers, from fp32 weights where they fit (`evaluate.ready`).

    Args:
        model, tokenizer: from `evaluate.load_run`, `merge.merge` or `models.load`.
        sheet: from `make_sheet`.
    """
    import torch

    prompts = [list(row.messages[:-1]) for row in sheet.conversations]
    with ready(model), torch.inference_mode():
        log_probs = []
        for prefix in sheet.prefixes:
            ids = torch.tensor([prefix], device=model.device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
            log_probs.append(logits.float().log_softmax(-1).cpu().numpy())
        answers = generate(model, tokenizer, prompts, sheet.max_new_tokens)
    return Reading(
        np.stack(log_probs),
        tuple(answers),
        tuple(render(tokenizer, prompt, answer_next=True) for prompt in prompts),
        tuple(tuple(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in sheet.texts),
    )


def read_gguf(path: str | Path, sheet: Sheet, adapter: str | Path | None = None) -> Reading:
    """Read a GGUF file in llama.cpp, by its own tokenizer, template and sampler.

    The distributions are those that llama.cpp computes from the sheet's token ids, over all of
    its vocabulary. The answers take the way of a chat: messages in, text out.

    Args:
        path: the model.
        sheet: from `make_sheet`.
        adapter: a GGUF adapter to put on it.

    Raises:
        KitError: xllamacpp is not installed, or llama.cpp cannot load the files.
    """
    room = max(len(prefix) for prefix in sheet.prefixes) + sheet.max_new_tokens + 8
    with llama_cpp(path, adapter, room) as server:
        prompts, answers = [], []
        for row in sheet.conversations:
            messages = list(row.messages[:-1])
            prompts.append(server.ask("/apply-template", messages=messages)["prompt"])
            answers.append(server.answer(messages, sheet.max_new_tokens))
        tokens = [
            tuple(server.ask("/tokenize", content=text, parse_special=True)["tokens"])
            for text in sheet.texts
        ]
        log_probs = [server.log_probs(prefix) for prefix in sheet.prefixes]
    return Reading(np.stack(log_probs), tuple(answers), tuple(prompts), tuple(tokens))


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
def llama_cpp(
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
