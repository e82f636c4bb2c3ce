"""`qlora-kit eval`."""

import json
import warnings
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
    from ..audit import trained_on
    from ..data import bundled_data, read
    from ..evaluate import evaluate as score
    from ..evaluate import longer_than, print_examples, print_scoreboard, read_probe, save_report
    from ..runs import load_run

    conversations = read(data, prompt_field, completion_field)
    items = read_probe(bundled_data("support/probe.jsonl")) if probe else []
    model, tokenizer = load_run(run)
    n = len(conversations)
    if known := trained_on(run, data, conversations):
        warnings.warn(
            f"{known} of {n} rows of {data} are rows that {run} was TRAINED ON: the scores show "
            "what it learned by heart, not what it can do. Name a file that was held out.",
            stacklevel=2,
        )
    if cut := longer_than(tokenizer, conversations, max_new_tokens):
        warnings.warn(
            f"{cut} of {n} reference answers are longer than --max-new-tokens {max_new_tokens}, "
            "so that the model's are cut before they can be as long.",
            stacklevel=2,
        )
    say = None if as_json else lambda line: print(f"{line} ...")
    board = score(model, tokenizer, conversations, items, max_new_tokens, say, similarity)
    seen = f" ({known} of {n} rows it was trained on)" if known else ""
    page = save_report(board, run, f"{run.name} on {data.name}{seen}")
    if as_json:
        print(json.dumps(board.as_json(), ensure_ascii=False))
        return
    terminal = console()
    print_examples(board, terminal)
    print_scoreboard(board, terminal)
    terminal.print(f"Report: {page}")
