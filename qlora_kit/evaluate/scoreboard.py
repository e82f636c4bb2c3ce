"""Base against tuned on the same held-out questions: answers, scores, and what was forgotten."""

import dataclasses
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from .. import models, stats
from ..data import Conversation
from ..engine import fast_generation
from ..machine import peak_rss_gb, release_memory
from ..models import Model, Tokenizer
from ..runs import as_base
from ..runs import load_run as load_run
from .generation import MAX_NEW_TOKENS, Answer, generate
from .likelihood import ProbeItem, negative_log_likelihood, probe
from .metrics import score_answers

RIGHT_OR_WRONG = ("exact_match", "stop_rate", "probe_accuracy")  # what McNemar's test is about


@dataclass(frozen=True)
class Scoreboard:
    """Base and tuned on n questions.

    base, tuned: metric to mean. difference: metric to the paired interval of tuned - base.
    mcnemar: for metrics that are right or wrong, first the base, then the tuned model.
    examples: question, reference, base and tuned answer of each question.
    """

    n: int
    base: dict[str, float]
    tuned: dict[str, float]
    difference: dict[str, stats.Interval]
    examples: tuple[dict[str, str], ...]
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    peak_rss_gb: float = 0.0
    mcnemar: dict[str, stats.McNemar] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The scoreboard as it stands in scoreboard.json."""
        board = dataclasses.asdict(self)
        board["difference"] = {
            # JSON knows no infinity, which one question alone has at both ends
            name: {"mean": d.mean, "ci95": [d.low, d.high] if math.isfinite(d.low) else None}
            for name, d in self.difference.items()
        }
        board["examples"] = list(self.examples)
        return board


def evaluate(
    model: Model,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    probe_items: Sequence[ProbeItem] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
    report: Any = None,
    similarity: bool = False,
) -> Scoreboard:
    """Score the base and the tuned model on the same held-out conversations.

    Args:
        model, tokenizer: from `load_run`.
        conversations: questions with reference answers.
        probe_items: general knowledge, to measure forgetting; none leaves it out.
        max_new_tokens: where an answer that does not stop is cut.
        report: called with a line of text before each stage.
        similarity: also how close in meaning each answer is to its reference, by the bundled
            sentence model (fetched when it is not there).
    """
    began = time.perf_counter()
    say = report or (lambda line: None)
    answers, scores = {}, {}
    with fast_generation(model):
        for side, switched in (("base", as_base(model)), ("tuned", nullcontext())):
            with switched:
                say(f"{side}: answering {len(conversations)} questions")
                prompts = [row.messages[:-1] for row in conversations]
                answers[side] = generate(model, tokenizer, prompts, max_new_tokens)
                table = score_answers(answers[side], [row.answer for row in conversations])
                say(f"{side}: scoring")
                table["nll"] = negative_log_likelihood(
                    model, tokenizer, [row.messages for row in conversations]
                )
                if similarity:
                    table["similarity"] = models.similarity(
                        [answer.text for answer in answers[side]],
                        [row.answer for row in conversations],
                    )
                if probe_items:
                    right, surprise = probe(model, tokenizer, probe_items)
                    table["probe_accuracy"], table["probe_nll"] = right, surprise
                scores[side] = table
            release_memory()
    return _scoreboard(conversations, answers, scores, time.perf_counter() - began)


def _scoreboard(
    conversations: Sequence[Conversation],
    answers: dict[str, list[Answer]],
    scores: dict[str, dict[str, list[float]]],
    seconds: float,
) -> Scoreboard:
    base, tuned = scores["base"], scores["tuned"]
    generated = sum(answer.tokens for side in answers.values() for answer in side)
    return Scoreboard(
        n=len(conversations),
        base={name: stats.mean(values) for name, values in base.items()},
        tuned={name: stats.mean(values) for name, values in tuned.items()},
        difference={
            name: stats.paired_bootstrap(base[name], tuned[name], graded=name not in RIGHT_OR_WRONG)
            for name in base
        },
        examples=tuple(
            {"question": row.question, "reference": row.answer, "base": b.text, "tuned": t.text}
            for row, b, t in zip(conversations, answers["base"], answers["tuned"], strict=True)
        ),
        seconds=seconds,
        tokens_per_second=generated / seconds,
        peak_rss_gb=peak_rss_gb(),
        mcnemar={
            name: stats.mcnemar(base[name], tuned[name]) for name in RIGHT_OR_WRONG if name in base
        },
    )
