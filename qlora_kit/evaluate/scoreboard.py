"""Base against tuned on the same held-out questions: answers, scores, and what was forgotten."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from .. import models, stats
from ..audit import trained_on
from ..data import Conversation, read
from ..engine import fast_generation
from ..machine import peak_rss_gb, release_memory
from ..models import Model, Tokenizer
from ..runs import as_base, open_run
from ..runs import load_run as load_run
from .generation import MAX_NEW_TOKENS, Answer, generate, longer_than
from .likelihood import ProbeItem, negative_log_likelihood, probe, read_probe
from .metrics import MEANS, score_answers

RIGHT_OR_WRONG = ("exact_match", "stop_rate", "probe_accuracy")  # what McNemar's test is about


@dataclass(frozen=True)
class Scoreboard:
    """Base and tuned on n questions.

    base, tuned: the mean of each metric; `LABELS` names the metrics and their units.
    difference: metric to the paired interval of tuned - base.
    examples: question, reference, base and tuned answer of each question.
    seconds: of the whole evaluation. generation_tokens_per_second: answer tokens of both models
        by the time that their generation took. training_tokens_per_second: of the training, where
        it was part of what is reported, as in the demo.
    peak_rss_gb: the most main memory that the process has held so far, in 10^9 bytes.
    mcnemar: for metrics that are right or wrong, first the base, then the tuned model.
    trained_on: how many of the questions the run was trained on.
    """

    n: int
    base: dict[str, float]
    tuned: dict[str, float]
    difference: dict[str, stats.Interval]
    examples: tuple[dict[str, str], ...]
    seconds: float = 0.0
    generation_tokens_per_second: float = 0.0
    training_tokens_per_second: float | None = None
    peak_rss_gb: float = 0.0
    mcnemar: dict[str, stats.McNemar] = field(default_factory=dict)
    trained_on: int = 0

    def as_json(self) -> dict[str, Any]:
        """The scoreboard as it stands in scoreboard.json."""
        board = dataclasses.asdict(self)
        board["difference"] = {
            name: {
                "mean": gap.mean,
                # JSON knows no infinity, which one question alone has at both ends
                "ci95": [gap.low, gap.high] if math.isfinite(gap.low) else None,
                "method": gap.method,
            }
            for name, gap in self.difference.items()
        }
        board["examples"] = list(self.examples)
        return board


def evaluate_run(
    run: Path,
    data: Path,
    probe_file: Path | None = None,
    prompt_field: str | None = None,
    completion_field: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    report: Callable[[str], object] | None = None,
    similarity: bool = False,
) -> Scoreboard:
    """Score a run, base and tuned, on held-out conversations of a file.

    It warns of questions that the run was trained on, and of answers that cannot fit.

    Args:
        run: the run folder.
        data: held-out conversations.
        probe_file: general knowledge, for `read_probe`; None leaves it out.
        prompt_field, completion_field: columns of the question and of the answer.
        max_new_tokens, report, similarity: see `evaluate`.

    Returns:
        The scoreboard.

    Raises:
        KitError: no run, or data that cannot be used.
    """
    conversations = read(data, prompt_field, completion_field)
    probe_items = read_probe(probe_file) if probe_file else []
    opened = open_run(run)
    model, tokenizer = opened.load()
    count = len(conversations)
    leaked = trained_on(opened, data, conversations)
    if leaked:
        warnings.warn(
            f"{leaked} of {count} rows of {data} are rows that {run} was TRAINED ON: the scores "
            "show what it learned by heart, not what it can do. Name a file that was held out.",
            stacklevel=2,
        )
    cut = longer_than(tokenizer, conversations, max_new_tokens)
    if cut:
        warnings.warn(
            f"{cut} of {count} reference answers are longer than --max-new-tokens "
            f"{max_new_tokens}, so that the model's are cut before they can be as long.",
            stacklevel=2,
        )
    board = evaluate(
        model, tokenizer, conversations, probe_items, max_new_tokens, report, similarity
    )
    return dataclasses.replace(board, trained_on=leaked)


def evaluate(
    model: Model,
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    probe_items: Sequence[ProbeItem] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
    report: Callable[[str], object] | None = None,
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
    prompts = [row.messages[:-1] for row in conversations]
    references = [row.answer for row in conversations]
    answers, scores = {}, {}
    generating = 0.0
    with fast_generation(model):
        for side, switched in (("base", as_base(model)), ("tuned", nullcontext())):
            with switched:
                say(f"{side}: answering {len(conversations)} questions")
                asked = time.perf_counter()
                answers[side] = generate(model, tokenizer, prompts, max_new_tokens)
                generating += time.perf_counter() - asked
                say(f"{side}: scoring")
                table = score_answers(answers[side], references)
                table["nll"] = negative_log_likelihood(
                    model, tokenizer, [row.messages for row in conversations]
                )
                if similarity:
                    texts = [answer.text for answer in answers[side]]
                    table["similarity"] = models.similarity(texts, references)
                if probe_items:
                    table["probe_accuracy"], table["probe_nll"] = probe(
                        model, tokenizer, probe_items
                    )
                scores[side] = table
            release_memory()
    tokens = sum(answer.tokens for side in answers.values() for answer in side)
    return dataclasses.replace(
        _scoreboard(conversations, answers, scores),
        seconds=time.perf_counter() - began,
        generation_tokens_per_second=tokens / generating,
        peak_rss_gb=peak_rss_gb(),
    )


def _scoreboard(
    conversations: Sequence[Conversation],
    answers: dict[str, list[Answer]],
    scores: dict[str, dict[str, list[float]]],
) -> Scoreboard:
    base, tuned = (
        {MEANS.get(name, name): values for name, values in scores[side].items()}
        for side in ("base", "tuned")
    )
    return Scoreboard(
        n=len(conversations),
        base={name: fmean(values) for name, values in base.items()},
        tuned={name: fmean(values) for name, values in tuned.items()},
        difference={
            name: stats.paired_interval(base[name], tuned[name], graded=name not in RIGHT_OR_WRONG)
            for name in base
        },
        examples=tuple(
            {"question": row.question, "reference": row.answer, "base": b.text, "tuned": t.text}
            for row, b, t in zip(conversations, answers["base"], answers["tuned"], strict=True)
        ),
        mcnemar={
            name: stats.mcnemar(base[name], tuned[name]) for name in RIGHT_OR_WRONG if name in base
        },
    )
