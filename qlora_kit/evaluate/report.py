"""A run told to people: the scoreboard as a table and as one self-contained HTML page."""

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..machine import detect, versions
from ..plots import BASE, PAGE_STYLE, TUNED, finish, html_table, new_axes
from .metrics import LABELS

if TYPE_CHECKING:
    from .scoreboard import Scoreboard

_DRAWN = ("token_f1", "rouge_l", "exact_match", "stop_rate", "probe_accuracy")  # from 0 to 1


def scoreboard_figure(board: "Scoreboard", path: Path | None = None) -> Any:
    """Base beside tuned for each score from 0 to 1, with the difference and its interval.

    Args:
        board: from `evaluate.evaluate`.
        path: where to save it as PNG.

    Returns:
        The matplotlib figure.
    """
    names = [name for name in _DRAWN if name in board.base]
    figure, axes = new_axes(height=0.6 * len(names) + 1.2)
    for index, name in enumerate(reversed(names)):
        axes.barh(index + 0.19, board.base[name], 0.36, color=BASE, hatch="//",
                  edgecolor="white", label="base" if index == 0 else None)  # fmt: skip
        axes.barh(index - 0.19, board.tuned[name], 0.36, color=TUNED,
                  label="tuned" if index == 0 else None)  # fmt: skip
        gap = board.difference[name]
        note = f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        axes.text(1.02, index, note, va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(names)), [_short(name) for name in reversed(names)])
    axes.set(xlim=(0, 1), xlabel=f"score (0 to 1), {board.n} held-out questions",
             title="Base and tuned; difference with 95 % interval")  # fmt: skip
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    said = [f"{_short(n)} {board.base[n]:.2f} and {board.tuned[n]:.2f}" for n in names]
    return finish(figure, path, f"Base and tuned: {'; '.join(said)}.")


def _short(name: str) -> str:
    """A metric's label beside a bar, without what the axis says."""
    return LABELS[name].removesuffix(", accuracy")


def scoreboard_rows(board: "Scoreboard") -> list[tuple[str, str, str, str]]:
    """The scoreboard as text: metric, base, tuned, difference with its 95 % interval.

    Args:
        board: from `evaluate.evaluate`.
    """
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
    for row in scoreboard_rows(board):
        table.add_row(*row)
    console.print(table)
    if board.mcnemar:
        console.print(mcnemar_line(board), highlight=False)


def mcnemar_line(board: "Scoreboard") -> str:
    """McNemar's test of each metric that is right or wrong, in one line.

    Args:
        board: from `evaluate.evaluate`.
    """
    said = [
        f"{LABELS.get(name, name)} {found.only_first} against {found.only_second}, "
        + (f"p = {found.p_value:.3f}" if found.p_value >= 0.001 else "p < 0.001")
        for name, found in board.mcnemar.items()
    ]
    return f"McNemar, only base right against only tuned right: {'; '.join(said)}."


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
    for name in ("question", "reference", "base", "tuned"):
        table.add_column(name, ratio=1, overflow="fold")
    for example in spread(board.examples, count):
        table.add_row(*(Text(example[name]) for name in ("question", "reference", "base", "tuned")))
    console.print(table)


def spread(examples: tuple[dict[str, str], ...], count: int) -> list[dict[str, str]]:
    """`count` examples at even distances.

    Args:
        examples: all of them.
        count: how many to take.
    """
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
    (folder / "scoreboard.json").write_text(text + "\n", encoding="utf-8")
    scoreboard_figure(board, folder / "scoreboard.png")
    page = folder / "report.html"
    page.write_text(_page(board, folder, title), encoding="utf-8")
    return page


def _page(board: "Scoreboard", folder: Path, title: str) -> str:
    config = folder / "config.yaml"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{board.n} held-out questions, answered greedily by the base model and by the same "
        "model with its adapter. Intervals are paired bootstrap, 95 %.</p>",
        html_table(
            ("metric", "base", "tuned", "tuned - base"), scoreboard_rows(board), numbers=True
        ),
        f"<p>{html.escape(mcnemar_line(board))}</p>" if board.mcnemar else "",
        _image(folder / "scoreboard.png", "Bars of each score, base beside tuned"),
        _image(folder / "loss.png", "Training loss over the optimizer steps"),
        "<h2>Every answer</h2>",
        html_table(
            ("question", "reference", "base", "tuned"),
            ([e[k] for k in ("question", "reference", "base", "tuned")] for e in board.examples),
        ),
        "<h2>How it was made</h2>",
        f"<p>{html.escape(str(detect()))}</p>",
        f"<p>{html.escape(', '.join(f'{name} {v}' for name, v in versions().items()))}</p>",
        f"<pre>{html.escape(config.read_text(encoding='utf-8'))}</pre>" if config.exists() else "",
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{PAGE_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _image(path: Path, alternative: str) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<p><img alt='{html.escape(alternative)}' src='data:image/png;base64,{data}'></p>"
