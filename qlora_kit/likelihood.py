"""What a model finds likely: held-out answers, and general knowledge that it may have forgotten."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .chat import IGNORED, encode, stop_ids
from .data import DataError

_SCORING_TOKENS = 2048  # padded tokens a batch may hold


@dataclass(frozen=True)
class ProbeItem:
    """A general-knowledge question with choices; answer is the right one's index."""

    question: str
    choices: tuple[str, ...]
    answer: int


def negative_log_likelihood(
    model: Any, tokenizer: Any, conversations: Sequence[Sequence[dict[str, str]]]
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
    model: Any, tokenizer: Any, text: str, window: int = 1024, stride: int | None = None,
    max_tokens: int | None = None,
) -> float:  # fmt: skip
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
        DataError: too little text, or a stride that would skip tokens.

    Source: equal to one forward pass over the text when the text fits in one window.
    """
    import torch

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


def _label_scores(model: Any, tokenizer: Any, examples: Sequence[Any]) -> list[float]:
    """The summed log-probability of each example's labeled tokens, in nats."""
    import torch

    from .loss import logits_only_where
    from .trainer import MicroBatchCollator

    collate = MicroBatchCollator(tokenizer.pad_token_id, _SCORING_TOKENS)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids), reverse=True)
    rows = [{"input_ids": examples[i].input_ids, "labels": examples[i].labels} for i in order]
    scores: list[float] = []
    with torch.inference_mode():
        for batch in collate(rows)["micro_batches"]:
            targets = batch["labels"][:, 1:].to(model.device)
            keep = torch.nn.functional.pad(targets != IGNORED, (0, 1))
            with logits_only_where(model, keep):
                output = model(input_ids=batch["input_ids"].to(model.device), use_cache=False)
            chosen = -torch.nn.functional.cross_entropy(
                output.logits.float(), targets[targets != IGNORED], reduction="none"
            )
            lines = keep.nonzero()[:, 0]
            sums = torch.zeros(len(targets), device=model.device).index_add_(0, lines, chosen)
            scores += sums.tolist()
    back = dict(zip(order, scores, strict=True))
    return [back[index] for index in range(len(examples))]


def probe(
    model: Any, tokenizer: Any, items: Sequence[ProbeItem]
) -> tuple[list[float], list[float]]:
    """General knowledge by likelihood: which choice does the model find most likely?

    Args:
        model, tokenizer: from `models.load`, with or without an adapter.
        items: from `read_probe`.

    Returns:
        (1 or 0 for each item's choice being right, nats a token of each right answer).
    """
    stops = stop_ids(tokenizer, model)
    talks = [
        [{"role": "user", "content": item.question}, {"role": "assistant", "content": choice}]
        for item in items
        for choice in item.choices
    ]
    examples = [encode(tokenizer, talk, stops=stops) for talk in talks]
    sums = iter(
        total / example.learned
        for total, example in zip(_label_scores(model, tokenizer, examples), examples, strict=True)
    )
    right, surprise = [], []
    for item in items:
        likelihoods = [next(sums) for _ in item.choices]
        right.append(
            float(max(range(len(likelihoods)), key=likelihoods.__getitem__) == item.answer)
        )
        surprise.append(-likelihoods[item.answer])
    return right, surprise


def read_probe(path: Path) -> list[ProbeItem]:
    """Read a probe: JSONL rows with question, choices and the right one's index.

    Args:
        path: the file.
    """
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            items.append(ProbeItem(row["question"], tuple(row["choices"]), row["answer"]))
            items[-1].choices[items[-1].answer]
        except (ValueError, KeyError, IndexError, TypeError) as problem:
            raise DataError(f"{path}, row {number}: not a probe item ({problem!r}).") from problem
    return items
