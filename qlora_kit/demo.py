"""`make demo`: fine-tune the bundled model on the bundled support data, and show that it worked."""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

from . import KitError
from .data import bundled_data, read
from .evaluate import (
    Scoreboard,
    evaluate,
    print_examples,
    print_scoreboard,
    read_probe,
    save_report,
)
from .runs import TrainConfig, load_config, load_run
from .train import Run, fine_tune


def demo(output: Path, console: Any) -> tuple[Run, Scoreboard]:
    """Train, evaluate, and leave the run folder with its report.

    Args:
        output: the run folder; one left by an earlier demo is replaced.
        console: a rich console to tell people on.

    Returns:
        The run and its scoreboard; the scoreboard's seconds cover the whole demo and its
        tokens_per_second is training's.
    """
    began = time.perf_counter()
    config = TrainConfig(
        data=str(bundled_data("support/train.jsonl")),
        output=str(output),
        epochs=1.6,
        token_budget=768,
        rank=32,
        alpha=64,
    )
    _clear(output, config.data)
    rows = read(config.data)
    console.print(
        f"[bold]1. Fine-tuning {config.model}[/bold] in {config.precision.upper()} on {len(rows)} "
        f"conversations about the Verdaloop, rank {config.rank}, {config.epochs:g} epochs"
    )
    run = fine_tune(config)
    console.print(
        f"   {run.steps} steps, {run.tokens:,} tokens in {run.seconds:.0f} s "
        f"({run.tokens_per_second:.0f} tokens a second), final loss {run.loss:.2f}"
    )
    console.print("[bold]2. Base against tuned[/bold] on questions that were not trained on")
    model, tokenizer = load_run(run.path)
    board = evaluate(
        model,
        tokenizer,
        read(bundled_data("support/test.jsonl")),
        read_probe(bundled_data("support/probe.jsonl")),
        report=lambda line: console.print(f"   {line} ..."),
    )
    board = dataclasses.replace(
        board, seconds=time.perf_counter() - began, tokens_per_second=run.tokens_per_second
    )
    page = save_report(board, run.path, "qlora-kit demo: a support assistant for the Verdaloop")
    print_examples(board, console)
    print_scoreboard(board, console)
    console.print(
        f"{board.seconds / 60:.1f} minutes and {board.peak_rss_gb:.1f} GB of memory in all. "
        f"Adapter, scoreboard and report: {page.parent}"
    )
    console.print(f"Talk to it: [bold]qlora-kit chat {page.parent}[/bold]")
    return run, board


def _clear(output: Path, data: str) -> None:
    """Remove an earlier demo, and nothing but one."""
    if not (output / "config.yaml").exists():
        return
    if load_config(output / "config.yaml").data != data:
        raise KitError(f"{output} holds another run; choose another --output.")
    shutil.rmtree(output)
