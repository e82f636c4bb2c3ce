"""Base against tuned on the same held-out questions: answers, scores, and what was forgotten."""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import KitError, embeddings, manifest, stats
from .adapters import load_adapter
from .atomic import digest
from .chat import encode_prompt, stop_ids
from .data import Conversation, read
from .hardware import Machine, detect, peak_rss_gb, release_memory
from .inference import merged_layers
from .likelihood import ProbeItem, negative_log_likelihood, probe
from .models import load
from .qlora import cached_when_it_fits
from .words import RougeWords, normalize, token_f1

MAX_NEW_TOKENS = 64
RIGHT_OR_WRONG = ("exact_match", "stop_rate", "probe_accuracy")  # what McNemar's test is about
_GENERATION_BATCH, _GENERATION_TOKENS = 120, 16_384  # of prompts; of what their caches hold


@dataclass(frozen=True)
class Answer:
    """What a model said; stopped tells whether it ended by itself; tokens without the stop."""

    text: str
    stopped: bool
    tokens: int


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


def score_answers(answers: Sequence[Answer], references: Sequence[str]) -> dict[str, list[float]]:
    """One score a question for each metric.

    Args:
        answers: from `generate`.
        references: the answers wanted, in the same order.

    Returns:
        token_f1, rouge_l, exact_match and stopped from 0 to 1; length in tokens.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=RougeWords())
    pairs = list(zip(answers, references, strict=True))
    return {
        "token_f1": [token_f1(answer.text, reference) for answer, reference in pairs],
        "rouge_l": [scorer.score(ref, answer.text)["rougeL"].fmeasure for answer, ref in pairs],
        "exact_match": [float(normalize(a.text) == normalize(ref)) for a, ref in pairs],
        "stop_rate": [float(answer.stopped) for answer in answers],
        "mean_length": [float(answer.tokens) for answer in answers],
    }


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[dict[str, str]]],
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = _GENERATION_BATCH,
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
    batch_size = max(1, min(batch_size, _GENERATION_TOKENS // longest))
    answers: dict[int, Answer] = {}
    with torch.inference_mode(), merged_layers(model):
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            width = max(len(encoded[index]) for index in batch)
            ids = torch.full((len(batch), width), tokenizer.pad_token_id, device=model.device)
            mask = torch.zeros_like(ids)
            for line, index in enumerate(batch):
                ids[line, width - len(encoded[index]) :] = torch.tensor(encoded[index])
                mask[line, width - len(encoded[index]) :] = 1
            output = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False,
                temperature=None, top_p=None, top_k=None, use_cache=True,
                eos_token_id=sorted(stops), pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            for line, index in enumerate(batch):
                answers[index] = _answer(tokenizer, output[line, width:].tolist(), stops)
    return [answers[index] for index in range(len(prompts))]


def _answer(tokenizer: Any, tokens: list[int], stops: set[int]) -> Answer:
    end = next((i for i, token in enumerate(tokens) if token in stops), None)
    said = tokens[:end]
    text = tokenizer.decode(said, skip_special_tokens=True).strip()
    return Answer(text, end is not None, len(said))


def load_run(run: str | Path, machine: Machine | None = None) -> tuple[Any, Any]:
    """Load a run's base model with its adapter on; of a full fine-tuning, the model itself.

    Args:
        run: the run folder.
        machine: defaults to this one.

    Returns:
        (model in eval mode, tokenizer); a PEFT model unless all weights were trained.

    Raises:
        KitError: not a run folder, an adapter that does not fit, or a base that is not the one it
            was trained on, see `manifest.require_match`.
    """
    from .config import load_config

    folder = Path(run).expanduser()
    whole = (folder / "model.safetensors").exists()
    results = ("model.safetensors",) if whole else ("adapter_config.json",)
    for name in ("config.yaml", *results):
        if not (folder / name).exists():
            raise KitError(f"{folder} is not a finished run: there is no {name} in it.")
    config = load_config(folder / "config.yaml")
    if whole:
        manifest.require_match(folder)
        model, tokenizer = load(str(folder), config.precision, machine)
        return model.eval(), tokenizer
    model, tokenizer = load(config.model, config.precision, machine)
    manifest.require_match(folder)  # now that a base from the Hub is here
    return load_adapter(model, folder), tokenizer


def trained_system(run: Path) -> str | None:
    """The system prompt that a run was trained with, when its first conversation had one.

    Args:
        run: the run folder.
    """
    try:
        return json.loads((run / "run.json").read_text(encoding="utf-8")).get("system")
    except (OSError, ValueError):  # an adapter from elsewhere has no such file
        return None


def trained_on(run: Path, data: Path, conversations: Sequence[Conversation]) -> int:
    """How many of the test's conversations a run was trained on, as far as can be told.

    Args:
        run: the run folder.
        data: the test's file; by its hash also told when the training file is gone.
        conversations: read from it.
    """
    made = manifest.read(run)
    if made is None:
        return 0
    if made.hashes.get("data") == digest(data.expanduser()):
        return len(conversations)
    fields = (made.config.get("prompt_field"), made.config.get("completion_field"))
    try:
        seen = {(row.question, row.answer) for row in read(made.data, *fields)}
    except KitError:
        return 0
    return sum((row.question, row.answer) in seen for row in conversations)


def longer_than(tokenizer: Any, conversations: Sequence[Conversation], tokens: int) -> int:
    """How many reference answers no model could give in so many tokens.

    Args:
        tokenizer: of the model.
        conversations: with the reference answers.
        tokens: where an answer is cut.
    """
    answers = [row.answer for row in conversations]
    return sum(len(ids) > tokens for ids in tokenizer(answers, add_special_tokens=False).input_ids)


def as_base(model: Any) -> AbstractContextManager[Any]:
    """Inside, the model answers without its adapter.

    Args:
        model: from `load_run`.

    Raises:
        KitError: all weights were trained, so there is no base in it.
    """
    if not hasattr(model, "disable_adapter"):
        raise KitError(
            "All weights of this run were trained, so the base is not in it to compare with; use "
            "generate and score_answers on each of the two models."
        )
    return model.disable_adapter()


@contextmanager
def ready(model: Any) -> Iterator[Any]:
    """Inside, a 4-bit model on a CPU answers from dequantized weights, several times faster.

    In fp32 on every CPU, so that the answers do not depend on which one it is.

    Args:
        model: from `load_run` or `models.load`.
    """
    with cached_when_it_fits(model, detect(), "float32"):
        yield model


def evaluate(
    model: Any,
    tokenizer: Any,
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
    with ready(model):
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
                    table["similarity"] = embeddings.similarity(
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
