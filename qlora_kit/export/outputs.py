"""The outputs of a model, from transformers and from llama.cpp alike, to be compared.

The prompts are the same for both: held-out conversations and places in their answers. The outputs
are the next-token distribution at each place, the answers, the rendered prompts and the tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import KitError
from ..data import IGNORED, Conversation, encode, render, stop_ids
from ..engine import fast_generation
from ..evaluate import MAX_NEW_TOKENS, Answer, generate
from ..models import Model, Tokenizer
from ..serve import running_llama_cpp

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
class Prompts:
    """What every model is asked.

    conversations: held out, each with its answer.   prefixes: token ids; what follows each is
    predicted.   texts: to be tokenized: TOKEN_TEXTS and the rendered prompts.
    """

    conversations: tuple[Conversation, ...]
    prefixes: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    max_new_tokens: int = MAX_NEW_TOKENS


@dataclass(frozen=True)
class Outputs:
    """What one model makes of the prompts, in their order.

    log_probs: (prefixes, vocabulary) fp32, in nats.   rendered: the questions by its chat
    template.   tokens: the ids of each text.
    """

    log_probs: np.ndarray
    answers: tuple[Answer, ...]
    rendered: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]


def make_prompts(
    model: Model,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    questions: int = 32,
    places: int = 4,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Prompts:
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
    rendered = [render(tokenizer, row.messages[:-1], answer_next=True) for row in chosen]
    return Prompts(tuple(chosen), tuple(prefixes), (*TOKEN_TEXTS, *rendered), max_new_tokens)


def model_outputs(model: Any, tokenizer: Any, prompts: Prompts) -> Outputs:
    """The outputs of a model in transformers, from fp32 weights where they fit.

    Args:
        model, tokenizer: from `runs.load_run`, `merge` or `models.load`.
        prompts: from `make_prompts`.
    """
    questions = [list(row.messages[:-1]) for row in prompts.conversations]
    with fast_generation(model), torch.inference_mode():
        log_probs = []
        for prefix in prompts.prefixes:
            ids = torch.tensor([prefix], device=model.device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
            log_probs.append(logits.float().log_softmax(-1).cpu().numpy())
        answers = generate(model, tokenizer, questions, prompts.max_new_tokens)
    return Outputs(
        np.stack(log_probs),
        tuple(answers),
        tuple(render(tokenizer, question, answer_next=True) for question in questions),
        tuple(tuple(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in prompts.texts),
    )


def gguf_outputs(path: str | Path, prompts: Prompts, adapter: str | Path | None = None) -> Outputs:
    """The outputs of a GGUF file in llama.cpp, by its own tokenizer, template and sampler.

    The distributions are those that llama.cpp computes from the prompts' token ids, over all of
    its vocabulary. The answers take the way of a chat: messages in, text out.

    Args:
        path: the model.
        prompts: from `make_prompts`.
        adapter: a GGUF adapter to put on it.

    Raises:
        KitError: xllamacpp is not installed, or llama.cpp cannot load the files.
    """
    room = max(len(prefix) for prefix in prompts.prefixes) + prompts.max_new_tokens + 8
    with running_llama_cpp(path, adapter, room) as server:
        rendered, answers = [], []
        for row in prompts.conversations:
            messages = list(row.messages[:-1])
            rendered.append(server.ask("/apply-template", messages=messages)["prompt"])
            answers.append(server.answer(messages, prompts.max_new_tokens))
        tokens = [
            tuple(server.ask("/tokenize", content=text, parse_special=True)["tokens"])
            for text in prompts.texts
        ]
        log_probs = [server.log_probs(prefix) for prefix in prompts.prefixes]
    return Outputs(np.stack(log_probs), tuple(answers), tuple(rendered), tuple(tokens))
