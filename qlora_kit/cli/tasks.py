"""`qlora-kit tasks`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def tasks(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    names: Annotated[list[str], typer.Argument(help="Tasks of lm-evaluation-harness.")],
    folder: Annotated[Path | None, typer.Option(help="With your own tasks' YAML.")] = None,
    limit: Annotated[int | None, typer.Option(help="Questions of each task.", min=1)] = None,
    base: Annotated[bool, typer.Option(help="Score the base model instead.")] = False,
    as_json: Json = False,
) -> None:
    """Score a tuned model on lm-evaluation-harness's tasks, or on your own."""
    from contextlib import nullcontext

    from ..engine import fast_generation
    from ..evaluate import run_tasks
    from ..runs import as_base, load_run

    model, tokenizer = load_run(run)
    with fast_generation(model), as_base(model) if base else nullcontext():
        scores = run_tasks(model, tokenizer, names, folder, limit)
    if as_json:
        print(json.dumps([vars(score) for score in scores]))
        return
    for score in scores:
        error = f" \u00b1 {score.error:.3f}" if score.error is not None else ""
        print(f"{score.task:<24} {score.metric:<12} {score.value:.3f}{error}")
