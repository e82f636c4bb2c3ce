"""Is the exported model the model that was trained? Each step against the adapter it came from.

    KL(adapter || step) = sum p_adapter (log p_adapter - log p_step)     at each place

A bad merge, rows in a wrong order, a lost template or another tokenizer raise no error; they show
here, and the gate stops them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from .. import KitError, stats
from ..evaluate import token_f1
from .outputs import Outputs, Prompts


@dataclass(frozen=True)
class Bound:
    """What a step may lose: mean KL in nats at most, top-1 agreement at least."""

    kl_mean: float
    top1: float


# f16 keeps nearly everything. The bounds of fewer bits stand about three standard errors (128
# places) beyond what rounding alone cost the bundled model, which is small and so loses most.
BOUNDS = {
    "merged": Bound(0.001, 0.98),  # saved in bf16
    "f16": Bound(0.001, 0.99),
    "q8_0": Bound(0.01, 0.94),
    "q5_0": Bound(0.1, 0.84),
    "q4_1": Bound(0.3, 0.74),
    "q4_0": Bound(0.3, 0.74),
    "original": Bound(0.5, 0.74),  # other weights than those that the adapter was trained on
}


@dataclass(frozen=True)
class Step:
    """One step of an export beside the adapter.

    kl_mean, kl_worst: KL(adapter || step) over the places, in nats. top1: share of places with
    the same most likely token. kl_base: mean KL(base || step), how far it is from the untrained
    base. score: mean token F1 of its answers; score_change: paired, step - adapter.
    prompts_equal, tokens_equal: of the texts, how many are rendered, tokenized alike.
    """

    name: str
    places: int
    kl_mean: float
    kl_worst: float
    top1: float
    kl_base: float
    score: float
    score_change: stats.Interval
    prompts_equal: float
    tokens_equal: float
    bound: Bound

    @property
    def problems(self) -> tuple[str, ...]:
        """What is worse than allowed, in words; none means that the step passes."""
        checks = (
            (
                self.kl_base <= self.kl_mean,
                f"it is no nearer to the adapter (KL {self.kl_mean:.5f}) than to the untrained "
                f"base (KL {self.kl_base:.5f})",
            ),
            (
                not self.kl_mean <= self.bound.kl_mean,  # so that NaN is refused
                f"mean KL {self.kl_mean:.5f}, at most {self.bound.kl_mean} is allowed",
            ),
            (
                self.top1 < self.bound.top1,
                f"top-1 agreement {self.top1:.3f}, {self.bound.top1} is needed",
            ),
            (
                self.score_change.high < 0,
                f"its answers are worse, token F1 {self.score_change}",
            ),
            (
                self.prompts_equal < 1,
                f"only {self.prompts_equal:.0%} of the prompts are rendered alike: the chat "
                "template differs",
            ),
            (
                self.tokens_equal < 1,
                f"only {self.tokens_equal:.0%} of the texts give the same token ids",
            ),
        )
        return tuple(message for failed, message in checks if failed)


@dataclass(frozen=True)
class Parity:
    """The report: questions and places asked, the adapter's own score, and each step."""

    questions: int
    adapter_score: float
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        """Whether every step is within its bound."""
        return not any(step.problems for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The report as it stands in parity.json."""
        steps = [asdict(step) | {"problems": list(step.problems)} for step in self.steps]
        return asdict(self) | {"steps": steps, "passed": self.passed}

    def rows(self) -> list[tuple[str, ...]]:
        """The report as text, one row a step, in the order of `COLUMNS`."""
        return [
            (
                step.name,
                f"{step.kl_mean:.5f}",
                f"{step.kl_worst:.5f}",
                f"{step.top1:.3f}",
                f"{step.kl_base:.3f}",
                f"{step.score:.3f}",
                str(step.score_change),
                f"{step.prompts_equal:.0%}",
                f"{step.tokens_equal:.0%}",
                "; ".join(step.problems) or "ok",
            )
            for step in self.steps
        ]


COLUMNS = (
    "step",
    "mean KL",
    "worst KL",
    "top-1",
    "KL from base",
    "token F1",
    "step - adapter [95 %]",
    "prompts",
    "tokens",
    "verdict",
)


def divergence(reference: Outputs, other: Outputs) -> np.ndarray:
    """KL(reference || other) at each place, in nats.

    Args:
        reference, other: for the same prompts.

    Returns:
        (places,) float64, never below 0.

    Raises:
        KitError: outputs of different vocabularies or for different prompts.
    """
    if reference.log_probs.shape != other.log_probs.shape:
        raise KitError(
            f"Outputs of {reference.log_probs.shape} and {other.log_probs.shape} places and "
            "tokens cannot be compared: they need the same prompts and one vocabulary."
        )
    p = reference.log_probs.astype(np.float64)
    return np.maximum((np.exp(p) * (p - other.log_probs)).sum(axis=1), 0)


def compare_outputs(
    name: str, prompts: Prompts, base: Outputs, adapter: Outputs, step: Outputs, bound: Bound
) -> Step:
    """Set a step of an export beside the adapter that it came from.

    Args:
        name: of the step.
        prompts: what all of them were asked.
        base, adapter: the model before and after training.
        step: what is checked.
        bound: what the step may lose.

    Raises:
        KitError: outputs that cannot be compared.
    """
    kl = divergence(adapter, step)
    before, after = scores(prompts, adapter), scores(prompts, step)
    return Step(
        name=name,
        places=len(kl),
        kl_mean=float(kl.mean()),
        kl_worst=float(kl.max()),
        top1=float((adapter.log_probs.argmax(1) == step.log_probs.argmax(1)).mean()),
        kl_base=float(divergence(base, step).mean()),
        score=fmean(after),
        score_change=stats.paired_interval(before, after, graded=True),
        prompts_equal=_share_equal(adapter.rendered, step.rendered),
        tokens_equal=_share_equal(adapter.tokens, step.tokens),
        bound=bound,
    )


def scores(prompts: Prompts, outputs: Outputs) -> list[float]:
    """Token F1 of each answer against the one in the conversation, from 0 to 1.

    Args:
        prompts: with the reference answers.
        outputs: for these prompts.
    """
    pairs = zip(outputs.answers, prompts.conversations, strict=True)
    return [token_f1(answer.text, row.answer) for answer, row in pairs]


def require_parity(report: Parity) -> None:
    """The gate: refuse an export one of whose steps is worse than its bound.

    Args:
        report: of all its steps.

    Raises:
        KitError: names each step and what is wrong with it.
    """
    failed = [f"{step.name}: {'; '.join(step.problems)}" for step in report.steps if step.problems]
    if failed:
        raise KitError(
            f"The export is not the model that was trained. {'. '.join(failed)}. Nothing was kept. "
            "A finer --quant loses less; --into dequantized is what the adapter was trained on."
        )


def _share_equal(first: Sequence[Any], second: Sequence[Any]) -> float:
    return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))
