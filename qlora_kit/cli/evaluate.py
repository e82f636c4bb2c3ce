"""`qlora-kit eval`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json, console


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Annotated[Path, typer.Argument(help="Held-out conversations.")],
    probe: Annotated[bool, typer.Option(help="Also measure what was forgotten.")] = True,
    prompt_field: Annotated[str | None, typer.Option(help="Column of the question.")] = None,
    completion_field: Annotated[str | None, typer.Option(help="Column of the answer.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Where an answer is cut.", min=1)] = 64,
    similarity: Annotated[bool, typer.Option(help="Also closeness in meaning.")] = False,
    as_json: Json = False,
) -> None:
    """Score base and tuned on held-out questions; scoreboard and report go into the run folder."""
    from ..data import bundled_data
    from ..evaluate import evaluate_run, print_examples, print_scoreboard, save_report

    board = evaluate_run(
        run,
        data,
        bundled_data("support/probe.jsonl") if probe else None,
        prompt_field,
        completion_field,
        max_new_tokens,
        None if as_json else lambda line: print(f"{line} ..."),
        similarity,
    )
    leak = f" ({board.trained_on} of {board.n} rows it was trained on)" if board.trained_on else ""
    page = save_report(board, run, f"{run.name} on {data.name}{leak}")
    if as_json:
        print(json.dumps(board.as_json(), ensure_ascii=False))
        return
    terminal = console()
    print_examples(board, terminal)
    print_scoreboard(board, terminal)
    terminal.print(f"Report: {page}")
