"""Figures in one style: labeled axes with units, one message each, readable in grayscale."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluate import Scoreboard

BASE, TUNED = "#9a9a9a", "#1f4e79"  # light and dark, also without color
STYLE = {
    "figure.dpi": 120,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_LABELS = {
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "exact_match": "exact match",
    "stop_rate": "stop rate",
    "probe_accuracy": "general knowledge",
}


def _axes(width: float = 6.4, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots()


def _finish(figure: Any, path: Path | None) -> Any:
    if path is not None:
        from matplotlib import rc_context

        with rc_context(STYLE):
            figure.savefig(path, dpi=120)
    return figure


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Each value's mean with up to window - 1 values before it.

    Args:
        values: in order.
        window: how many to average.
    """
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / (i + 1 - max(0, i - window + 1))
        for i in range(len(values))
    ]


def loss_curve(metrics: Path, path: Path | None = None) -> Any:
    """The training loss over the steps, raw and smoothed.

    Args:
        metrics: a run's metrics.jsonl.
        path: where to save it as PNG.

    Returns:
        The matplotlib figure.
    """
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    window = max(1, len(losses) // 15)
    figure, axes = _axes()
    axes.plot(steps, losses, color=BASE, linewidth=0.8, label="each step")
    axes.plot(steps, moving_mean(losses, window), color=TUNED, linewidth=2,
              label=f"mean of {window} steps")  # fmt: skip
    axes.set(xlabel="optimizer step", ylabel="loss on the answers (nats a token)",
             title="Training loss", ylim=(0, None))  # fmt: skip
    axes.legend()
    return _finish(figure, path)


def scoreboard(board: "Scoreboard", path: Path | None = None) -> Any:
    """Base beside tuned for each score from 0 to 1, with the difference and its interval.

    Args:
        board: from `evaluate.evaluate`.
        path: where to save it as PNG.

    Returns:
        The matplotlib figure.
    """
    names = [name for name in _LABELS if name in board.base]
    figure, axes = _axes(height=0.6 * len(names) + 1.2)
    for index, name in enumerate(reversed(names)):
        axes.barh(index + 0.19, board.base[name], 0.36, color=BASE, hatch="//",
                  edgecolor="white", label="base" if index == 0 else None)  # fmt: skip
        axes.barh(index - 0.19, board.tuned[name], 0.36, color=TUNED,
                  label="tuned" if index == 0 else None)  # fmt: skip
        gap = board.difference[name]
        note = f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        axes.text(1.02, index, note, va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(names)), [_LABELS[name] for name in reversed(names)])
    axes.set(xlim=(0, 1), xlabel=f"score (0 to 1), {board.n} held-out questions",
             title="Base and tuned; difference with 95 % interval")  # fmt: skip
    figure.legend(loc="outside lower center", ncols=2)
    return _finish(figure, path)
