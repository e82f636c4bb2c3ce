"""A run told to people: the scoreboard as a table and as one self-contained HTML page."""

import base64
import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plots
from .hardware import detect, versions

if TYPE_CHECKING:
    from .evaluate import Scoreboard

LABELS = {
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    "exact_match": "exact match",
    "nll": "held-out NLL (nats a token)",
    "stop_rate": "stop rate",
    "mean_length": "mean length (tokens)",
    "similarity": "similarity in meaning (cosine)",
    "probe_accuracy": "general knowledge, accuracy",
    "probe_nll": "general knowledge, NLL (nats a token)",
}
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1c1c1c;background:#fff}table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{text-align:left;
vertical-align:top;padding:.4rem .7rem;border-bottom:1px solid #ddd}th{background:#f4f4f4}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}img{max-width:100%}
pre{white-space:pre-wrap;background:#f4f4f4;padding:1rem}.wide{overflow-x:auto}
"""


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


def save(board: "Scoreboard", folder: Path, title: str) -> Path:
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
    plots.scoreboard(board, folder / "scoreboard.png")
    page = folder / "report.html"
    page.write_text(_page(board, folder, title), encoding="utf-8")
    return page


def _page(board: "Scoreboard", folder: Path, title: str) -> str:
    config = folder / "config.yaml"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{board.n} held-out questions, answered greedily by the base model and by the same "
        "model with its adapter. Intervals are paired bootstrap, 95 %.</p>",
        table(("metric", "base", "tuned", "tuned - base"), scoreboard_rows(board), numbers=True),
        f"<p>{html.escape(mcnemar_line(board))}</p>" if board.mcnemar else "",
        _image(folder / "scoreboard.png", "Bars of each score, base beside tuned"),
        _image(folder / "loss.png", "Training loss over the optimizer steps"),
        "<h2>Every answer</h2>",
        table(
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
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: bool = False) -> str:
    """An HTML table, its cells escaped.

    Args:
        head: the column titles.
        rows: the cells of each row.
        numbers: set all columns but the first as numbers.
    """
    mark = " class=n" if numbers else ""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{mark if index else ''}>{html.escape(cell)}</td>" for index, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"


def _image(path: Path, alternative: str) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<p><img alt='{html.escape(alternative)}' src='data:image/png;base64,{data}'></p>"
