"""A run told to people: the scoreboard as a table and as one self-contained HTML page."""

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..machine import detect, versions, write_text
from ..plots import BASE, TUNED, finish, html_page, new_axes
from .metrics import LABELS

if TYPE_CHECKING:
    from .scoreboard import Scoreboard

_DRAWN = ("token_f1", "rouge_l", "exact_match", "stop_rate", "probe_accuracy")  # from 0 to 1
_TEXTS = ("question", "reference", "base", "tuned")
_PAGE = """
<p>{{ board.n }} held-out questions, answered greedily by the base model and by the same model with
its adapter. {{ intervals }}</p>
{{ html_table(("metric", "base", "tuned", "tuned - base"), rows, numbers=True) }}
{% if mcnemar %}<p>{{ mcnemar }}</p>{% endif %}
{% for data, alt in pictures %}<p>{{ picture(data, alt) }}</p>{% endfor %}
<h2>Every answer</h2>{{ html_table(texts, answers) }}
<h2>How it was made</h2><p>{{ machine }}</p><p>{{ versions }}</p>
{% if config %}<pre>{{ config }}</pre>{% endif %}
"""


def scoreboard_figure(board: "Scoreboard", path: Path | None = None) -> Any:
    """Base beside tuned for each score from 0 to 1, with the difference and its interval.

    Args:
        board: from `evaluate.evaluate`.
        path: where to save it as PNG.

    Returns:
        The matplotlib figure.
    """
    names = [name for name in _DRAWN if name in board.base]
    labels = {name: LABELS[name].removesuffix(", accuracy") for name in names}
    figure, axes = new_axes(height=0.6 * len(names) + 1.2)
    upwards = names[::-1]
    base_look = {"color": BASE, "hatch": "//", "edgecolor": "white", "label": "base"}
    for side, offset, look in (
        (board.base, 0.19, base_look),
        (board.tuned, -0.19, {"color": TUNED, "label": "tuned"}),
    ):
        places = [row + offset for row in range(len(names))]
        axes.barh(places, [side[name] for name in upwards], 0.36, **look)
    for row, name in enumerate(upwards):
        gap = board.difference[name]
        note = f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        axes.text(1.02, row, note, va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(names)), [labels[name] for name in upwards])
    axes.set(xlim=(0, 1), xlabel=f"score (0 to 1), {board.n} held-out questions")
    axes.set(title="Base and tuned; difference with 95 % interval")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    scores = [f"{labels[n]} {board.base[n]:.2f} and {board.tuned[n]:.2f}" for n in names]
    return finish(figure, path, f"Base and tuned: {'; '.join(scores)}.")


def _rows(board: "Scoreboard") -> list[tuple[str, str, str, str]]:
    """The scoreboard as text: metric, base, tuned, difference with its 95 % interval."""
    return [
        (
            LABELS.get(name, name),
            f"{board.base[name]:.3f}",
            f"{board.tuned[name]:.3f}",
            f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]",
        )
        for name, gap in board.difference.items()
    ]


def print_scoreboard(board: "Scoreboard", console: Any) -> None:
    """Show the scoreboard as a table in the terminal.

    Args:
        board: from `evaluate.evaluate`.
        console: a rich console.
    """
    from rich.table import Table

    table = Table(title=f"{board.n} held-out questions", title_justify="left")
    for name in ("metric", "base", "tuned", "tuned - base [95 % interval]"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for row in _rows(board):
        table.add_row(*row)
    console.print(table)
    console.print(_interval_line(board), highlight=False)
    if board.mcnemar:
        console.print(_mcnemar_line(board), highlight=False)


def _interval_line(board: "Scoreboard") -> str:
    """Which interval each metric's difference has, in one line."""
    metrics: dict[str, list[str]] = {}
    for name, gap in board.difference.items():
        metrics.setdefault(gap.method, []).append(LABELS.get(name, name))
    listed = "; ".join(f"{method} ({', '.join(names)})" for method, names in metrics.items())
    return f"Intervals, 95 %: {listed}."


def _mcnemar_line(board: "Scoreboard") -> str:
    """McNemar's test of each metric that is right or wrong, in one line."""
    tests = [
        f"{LABELS.get(name, name)} {test.only_first} against {test.only_second}, "
        + (f"p = {test.p_value:.3f}" if test.p_value >= 0.001 else "p < 0.001")
        for name, test in board.mcnemar.items()
    ]
    return f"McNemar, only base right against only tuned right: {'; '.join(tests)}."


def print_examples(board: "Scoreboard", console: Any, count: int = 5) -> None:
    """Show some questions with reference, base and tuned answers side by side.

    Args:
        board: from `evaluate.evaluate`.
        console: a rich console.
        count: how many, spread evenly over the questions: nobody picked them.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Answers, side by side", title_justify="left", show_lines=True)
    for name in _TEXTS:
        table.add_column(name, ratio=1, overflow="fold")
    for example in _spread(board.examples, count):
        table.add_row(*(Text(example[name]) for name in _TEXTS))
    console.print(table)


def _spread(examples: tuple[dict[str, str], ...], count: int) -> list[dict[str, str]]:
    """`count` examples at even distances."""
    step = max(1, len(examples) // max(count, 1))
    return list(examples[::step][:count])


def save_report(board: "Scoreboard", folder: Path, title: str) -> Path:
    """Write scoreboard.json, scoreboard.png and a self-contained report.html.

    Args:
        board: from `evaluate.evaluate`.
        folder: the run folder.
        title: of the page.

    Returns:
        The page's path.
    """
    text = json.dumps(board.as_json(), indent=1, ensure_ascii=False)
    write_text(folder / "scoreboard.json", text + "\n")
    scoreboard_figure(board, folder / "scoreboard.png")
    page = folder / "report.html"
    write_text(page, _page(board, folder, title))
    return page


def _page(board: "Scoreboard", folder: Path, title: str) -> str:
    config = folder / "config.yaml"
    figures = {
        folder / "scoreboard.png": "Bars of each score, base beside tuned",
        folder / "loss.png": "Training loss over the optimizer steps",
    }
    return html_page(
        title,
        _PAGE,
        board=board,
        intervals=_interval_line(board),
        rows=_rows(board),
        mcnemar=_mcnemar_line(board) if board.mcnemar else "",
        pictures=[
            (base64.b64encode(path.read_bytes()).decode(), alt)
            for path, alt in figures.items()
            if path.exists()
        ],
        texts=_TEXTS,
        answers=[[example[name] for name in _TEXTS] for example in board.examples],
        machine=detect(),
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
        config=config.read_text(encoding="utf-8") if config.exists() else "",
    )
