"""Greedy answers in batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data import Conversation, encode_prompt, stop_ids
from ..engine import fast_generation
from ..models import Model, Tokenizer

MAX_NEW_TOKENS = 64  # the longest of the course's support answers has 40
_BATCH_PROMPTS = 120  # chosen by hand: the course's test questions in one batch
_BATCH_TOKENS = 16_384  # chosen by hand: what the caches of a batch may hold


@dataclass(frozen=True)
class Answer:
    """What a model said; stopped tells whether it ended by itself; tokens without the stop."""

    text: str
    stopped: bool
    tokens: int


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[dict[str, str]]],
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = _BATCH_PROMPTS,
) -> list[Answer]:
    """Greedy answers in batches, padded left so that each answer continues its own prompt.

    Prompts of similar length share a batch; the answers come back in the order asked and are
    equal to those that each prompt gets alone.

    Args:
        model, tokenizer: from `models.load`, with or without an adapter.
        prompts: conversations that end with the user's turn.
        max_new_tokens: where an answer that does not stop is cut.
        batch_size: prompts at a time; fewer where they are long.
    """
    import torch

    stops = stop_ids(tokenizer, model)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    longest = max(map(len, encoded), default=0) + max_new_tokens
    batch_size = max(1, min(batch_size, _BATCH_TOKENS // longest))
    answers: dict[int, Answer] = {}
    write: Any = model.generate  # an adapted model's is typed as whatever a module may hold
    greedily = {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,
        **dict.fromkeys(("temperature", "top_p", "top_k")),
        "use_cache": True,
        "eos_token_id": sorted(stops),
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.inference_mode(), fast_generation(model, merged=True):
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            width = max(len(encoded[index]) for index in batch)
            ids = torch.full((len(batch), width), tokenizer.pad_token_id, device=model.device)
            mask = torch.zeros_like(ids)
            for line, index in enumerate(batch):
                ids[line, width - len(encoded[index]) :] = torch.tensor(encoded[index])
                mask[line, width - len(encoded[index]) :] = 1
            output = write(input_ids=ids, attention_mask=mask, **greedily)
            for line, index in enumerate(batch):
                answers[index] = _answer(tokenizer, output[line, width:].tolist(), stops)
    return [answers[index] for index in range(len(prompts))]


def _answer(tokenizer: Tokenizer, tokens: list[int], stops: set[int]) -> Answer:
    end = next((i for i, token in enumerate(tokens) if token in stops), None)
    written = tokens[:end]
    text = str(tokenizer.decode(written, skip_special_tokens=True)).strip()
    return Answer(text, end is not None, len(written))


def longer_than(tokenizer: Tokenizer, conversations: Sequence[Conversation], tokens: int) -> int:
    """How many reference answers no model could give in so many tokens.

    Args:
        tokenizer: of the model.
        conversations: with the reference answers.
        tokens: where an answer is cut.
    """
    answers = [row.answer for row in conversations]
    return sum(len(ids) > tokens for ids in tokenizer(answers, add_special_tokens=False).input_ids)
