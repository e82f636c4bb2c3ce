"""What a model finds likely: held-out answers, and general knowledge that it may have forgotten."""

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import (
    IGNORED,
    SHARING_PAYS,
    BadRowError,
    DataError,
    Example,
    Pack,
    Problem,
    block_mask,
    checked,
    encode,
    is_packable,
    require_usable,
    rows_of,
    share_beginning,
    share_prompts,
    stop_ids,
)
from ..models import Model, Tokenizer

_SCORING_TOKENS = 2048  # padded tokens a batch may hold; chosen by hand
# In a row of prompts that share their beginning: attention sees all of it. Chosen by hand.
_SHARED_TOKENS = 384


@dataclass(frozen=True)
class ProbeItem:
    """A general-knowledge question with choices; answer is the right one's index."""

    question: str
    choices: tuple[str, ...]
    answer: int


def negative_log_likelihood(
    model: Model, tokenizer: Tokenizer, conversations: Sequence[Sequence[dict[str, str]]]
) -> list[float]:
    """How surprised a model is by each conversation's answers: nats a token, stop included.

    Args:
        model, tokenizer: from `models.load`, with or without an adapter.
        conversations: messages each, the assistant's last.

    Returns:
        The mean over a conversation's labeled tokens, one number a conversation.
    """
    stops = stop_ids(tokenizer, model)
    examples = [encode(tokenizer, messages, stops=stops) for messages in conversations]
    sums = _label_scores(model, tokenizer, examples)
    return [-total / example.learned for total, example in zip(sums, examples, strict=True)]


def perplexity(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    window: int = 1024,
    stride: int | None = None,
    max_tokens: int | None = None,
) -> float:
    """How many next tokens a model hesitates between, on plain text.

    The text is read in windows. With a stride below the window, windows overlap and each token
    is scored once, with the longest context that its window gives.

    Args:
        model, tokenizer: from `models.load`.
        text: long enough for two tokens.
        window: tokens that the model sees at once.
        stride: tokens from one window's start to the next; None means no overlap.
        max_tokens: read no more of the text than this.

    Returns:
        exp of the mean negative log-likelihood a token; each token but the first counts once
        (without overlap also each window's first does not).

    Raises:
        DataError: too little text, a window of one token, or a stride that would skip tokens.

    Source: equal to one forward pass over the text when the text fits in one window.
    """
    import torch

    if window < 2:
        raise DataError(f"window must be at least 2 tokens, not {window}: the first one is given.")
    stride = stride or window
    if not 0 < stride <= window:
        raise DataError(f"stride must be from 1 to the window ({window}), not {stride}.")
    ids = tokenizer(text, add_special_tokens=False).input_ids[:max_tokens]
    if len(ids) < 2:
        raise DataError("Perplexity needs a text of at least two tokens.")
    total, count, scored = 0.0, 0, 0
    for start in range(0, len(ids), stride):
        piece = torch.tensor([ids[start : start + window]], device=model.device)
        new = min(piece.shape[1], start + piece.shape[1] - scored)
        if piece.shape[1] > 1:
            with torch.inference_mode():
                logits = model(input_ids=piece, use_cache=False).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="none")
            total += losses[-new:].sum().item()
            count += min(new, len(losses))
        scored = start + piece.shape[1]
        if scored == len(ids):
            break
    return math.exp(total / count)


def _label_scores(model: Model, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[float]:
    """The summed log-probability of each example's labeled tokens, in nats.

    Answers to one prompt, or prompts with one beginning, are scored together: it is read once.
    """
    import torch

    from ..data import cut, padded
    from ..engine import logits_where

    def stack(rows: list[Pack], name: str, filler: int) -> torch.Tensor:
        return padded([getattr(row, name) for row in rows], filler).to(model.device)

    packs = _packs(examples) if is_packable(model) else share_prompts(examples, 0)
    packs.sort(key=lambda row: len(row.input_ids), reverse=True)
    sums = torch.zeros(len(examples), device=model.device)
    with torch.inference_mode():
        for rows in cut(packs, _SCORING_TOKENS):
            segments = stack(rows, "segments", 0)
            inputs = {"input_ids": stack(rows, "input_ids", tokenizer.pad_token_id)}
            if any(len({*row.segments} - {0}) > 1 for row in rows):
                inputs["attention_mask"] = block_mask(segments, shared=0)
                inputs["position_ids"] = stack(rows, "position_ids", 0)
            targets = stack(rows, "labels", IGNORED)[:, 1:]
            scored = targets != IGNORED
            logits = logits_where(model, inputs, torch.nn.functional.pad(scored, (0, 1)))
            surprise = torch.nn.functional.cross_entropy(logits, targets[scored], reduction="none")
            sums.index_add_(0, segments[:, 1:][scored] - 1, -surprise)
    return sums.tolist()


def _packs(examples: Sequence[Example]) -> list[Pack]:
    """The rows with fewer tokens: prompts shared, or what all of them begin with."""
    prompts = share_prompts(examples, _SCORING_TOKENS)
    beginning = share_beginning(examples, _SHARED_TOKENS)
    sizes = [sum(len(row.input_ids) for row in rows) for rows in (prompts, beginning)]
    return beginning if sizes[1] < SHARING_PAYS * sizes[0] else prompts


def probe(
    model: Model, tokenizer: Tokenizer, items: Sequence[ProbeItem]
) -> tuple[list[float], list[float]]:
    """General knowledge by likelihood: which choice does the model find most likely?

    Choices are compared by their mean log-probability a token, the stop included.

    Args:
        model, tokenizer: from `models.load`, with or without an adapter.
        items: from `read_probe`.

    Returns:
        (1 or 0 for each item's choice being right, nats a token of each right answer).
    """
    stops = stop_ids(tokenizer, model)
    dialogs = [_dialog(item.question, choice) for item in items for choice in item.choices]
    examples = [encode(tokenizer, dialog, stops=stops) for dialog in dialogs]
    sums = _label_scores(model, tokenizer, examples)
    means = iter([total / each.learned for total, each in zip(sums, examples, strict=True)])
    right, surprise = [], []
    for item in items:
        likelihoods = [next(means) for _ in item.choices]
        right.append(float(likelihoods.index(max(likelihoods)) == item.answer))
        surprise.append(-likelihoods[item.answer])
    return right, surprise


def read_probe(path: str | Path) -> list[ProbeItem]:
    """Read a probe: rows with question, choices and the right one's index.

    Args:
        path: a .jsonl, .json or .parquet file.

    Returns:
        The items, in file order.

    Raises:
        DataError: unreadable, empty, or with bad rows; it names every one of them.
    """
    path = Path(path).expanduser()
    items: list[ProbeItem] = []
    problems: list[Problem] = []
    for number, row in rows_of(path, problems):
        try:
            items.append(_probe_item(row))
        except BadRowError as bad:
            problems.append(Problem(path.name, number, str(bad)))
    require_usable(path, len(items), problems)
    return items


def _probe_item(row: dict[str, Any]) -> ProbeItem:
    question, choices, answer = (row.get(name) for name in ("question", "choices", "answer"))
    if not isinstance(question, str):
        raise BadRowError("'question' is missing or not text")
    if (
        not isinstance(choices, list)
        or len(choices) < 2
        or not all(isinstance(choice, str) for choice in choices)
    ):
        raise BadRowError("'choices' is not a list of at least two texts")
    # JSON's true is no index, though Python's True is an int.
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise BadRowError(
            f"'answer' is {reprlib.repr(answer)}, but the right choice's index is from 0 to "
            f"{len(choices) - 1}"
        )
    for choice in choices:
        checked(_dialog(question, choice))
    return ProbeItem(question, tuple(choices), answer)


def _dialog(question: str, choice: str) -> list[dict[str, str]]:
    """A question with one of its choices, as the model is asked how likely it is."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": choice}]
