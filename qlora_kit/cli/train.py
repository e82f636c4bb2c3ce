"""`qlora-kit train`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Json


def train(
    data: Annotated[str | None, typer.Argument(help=".jsonl, .json, .csv, .tsv, .parquet")] = None,
    output: Annotated[str | None, typer.Option(help="The run folder to write.")] = None,
    model: Annotated[str | None, typer.Option(help="Name, Hub id, folder or .gguf.")] = None,
    precision: Annotated[str | None, typer.Option(help="nf4, fp4, int8, 16bit, 32bit.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps; counts instead of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Conversations per step.")] = None,
    token_budget: Annotated[int | None, typer.Option(help="Tokens at once; bounds memory.")] = None,
    low_memory: Annotated[
        bool | None, typer.Option(help="In less memory, at 0.4 of the speed.")
    ] = None,
    packing: Annotated[bool | None, typer.Option(help="Fill rows instead of padding.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A run to train further.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of the adapters.")] = None,
    alpha: Annotated[int | None, typer.Option(help="Scale: alpha / rank.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens kept of a conversation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    save_steps: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    prompt_field: Annotated[str | None, typer.Option(help="Column of the question.")] = None,
    completion_field: Annotated[str | None, typer.Option(help="Column of the answer.")] = None,
    report_to: Annotated[str | None, typer.Option(help="none, tensorboard, trackio.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with any of these.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on your conversations and leave a run folder."""
    from ..runs import load_config, make_config

    local = {k: v for k, v in locals().items() if k in _TRAIN_OPTIONS and v is not None}
    settings = load_config(config, **local) if config else make_config(local, "qlora-kit train")
    from ..train import fine_tune

    run = fine_tune(settings, resume=resume, progress=not as_json)
    result = {
        "path": str(run.path), "status": run.status, "steps": run.steps, "loss": run.loss,
        "tokens": run.tokens, "seconds": run.seconds, "tokens_per_second": run.tokens_per_second,
        "peak_rss_gb": run.peak_rss_gb,
    }  # fmt: skip
    if as_json:
        print(json.dumps(result))
    else:
        print(
            f"{run.status} after {run.steps} steps: loss {run.loss:.3f}, "
            f"{run.tokens_per_second:.0f} tokens a second, {run.peak_rss_gb:.1f} GB. "
            f"The adapter is in {run.path}"
        )
        if run.status == "interrupted":
            print("Go on with the same command and --resume.")
    if run.status == "interrupted":
        raise typer.Exit(130)


_TRAIN_OPTIONS = {
    "data", "output", "model", "precision", "epochs", "max_steps", "batch_size", "token_budget",
    "low_memory", "packing", "adapter", "rank", "alpha", "learning_rate", "max_length", "seed",
    "save_steps", "prompt_field", "completion_field", "report_to",
}  # fmt: skip
