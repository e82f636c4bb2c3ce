"""`make demo`: fine-tune the bundled model on the bundled support data, and show that it worked."""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

from . import KitError
from .data import bundled_data, read
from .evaluate import Scoreboard, evaluate_run, print_examples, print_scoreboard, save_report
from .machine import write_text
from .runs import LOCK, TrainConfig, load_config, locked_folder
from .train import TrainResult, fine_tune

MARKER = ".qlora-kit-demo"  # stands in a folder that a demo made, and that the next may remove


def demo(output: Path, console: Any) -> tuple[TrainResult, Scoreboard]:
    """Train, evaluate, and leave the run folder with its report.

    Args:
        output: the run folder; one left by an earlier demo is replaced.
        console: a rich console to tell people on.

    Returns:
        The run and its scoreboard; the scoreboard's seconds cover the whole demo.

    Raises:
        KitError: a folder that holds something else, or cannot be written to; or Ctrl-C in its
            training.
    """
    began = time.perf_counter()
    folder = output.expanduser()
    config = demo_config(folder)
    _claim(folder, config)
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
    if run.status == "interrupted":
        raise KitError("The demo was stopped before its end; the same command begins it anew.")
    console.print("[bold]2. Base against tuned[/bold] on questions that were not trained on")
    board = evaluate_run(
        run.path,
        bundled_data("support/test.jsonl"),
        bundled_data("support/probe.jsonl"),
        report=lambda line: console.print(f"   {line} ..."),
    )
    seconds = time.perf_counter() - began
    board = dataclasses.replace(
        board, seconds=seconds, training_tokens_per_second=run.tokens_per_second
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


def demo_config(output: Path) -> TrainConfig:
    """The demo's settings: the bundled model and data, a few minutes on a laptop.

    Args:
        output: the run folder.

    Returns:
        The settings of its run.
    """
    return TrainConfig(
        data=str(bundled_data("support/train.jsonl")),
        output=str(output),
        epochs=1.6,
        token_budget=768,
        rank=32,
        alpha=64,
    )


def _claim(folder: Path, config: TrainConfig) -> None:
    """Make the demo's folder, in place of an earlier demo and of nothing else."""
    try:
        contents = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if contents - {MARKER, LOCK} and not _is_demo(folder, config):
            raise KitError(
                f"{folder} holds something else than a demo with these settings. It was left "
                "as it is: choose another --output, or remove the folder yourself."
            )
        with locked_folder(folder):  # not while another demo still trains in it
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
            # Before the training begins, so that a demo that was killed is known as one.
            write_text(folder / MARKER, "qlora-kit demo made this folder, and may replace it.\n")
    except OSError as problem:
        raise KitError(
            f"{folder} cannot be used: {problem.strerror or problem}. Choose another --output."
        ) from problem


def _is_demo(folder: Path, config: TrainConfig) -> bool:
    """Whether a demo made the folder, and nobody has trained in it since with other settings."""
    if not (folder / MARKER).is_file():
        return False
    try:
        before = load_config(folder / "config.yaml")
    except KitError:  # none, or not a run's
        return False
    # The same folder and the same data may be named otherwise; a copy is somebody's own.
    if Path(before.output).expanduser().resolve() != folder.resolve():
        return False
    return dataclasses.replace(before, output=config.output, data=config.data) == config and (
        Path(before.data).name == Path(config.data).name
    )
