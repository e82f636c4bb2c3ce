"""`qlora-kit train`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runs import TrainConfig
from .options import Json, with_fields


@with_fields(TrainConfig, "data")
def train(
    config: Annotated[Path | None, typer.Option(help="YAML with any of these.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint.")] = False,
    as_json: Json = False,
    **fields: Any,
) -> None:
    """Fine-tune a model on your conversations and leave a run folder."""
    from ..runs import load_config, make_config

    given = {name: value for name, value in fields.items() if value is not None}
    settings = load_config(config, **given) if config else make_config(given, "qlora-kit train")
    from ..train import fine_tune

    run = fine_tune(settings, resume=resume, progress=not as_json)
    if as_json:
        speed = {"tokens_per_second": run.tokens_per_second}
        print(json.dumps(asdict(run) | speed | {"path": str(run.path)}))
    else:
        print(
            f"{run.status} after {run.steps} steps at a learning rate of {run.learning_rate:g}: "
            f"loss {run.loss:.3f}, {run.tokens_per_second:.0f} tokens a second, "
            f"{run.peak_rss_gb:.1f} GB. The adapter is in {run.path}"
        )
        if run.status == "interrupted":
            print("Go on with the same command and --resume.")
    if run.status == "interrupted":
        raise typer.Exit(130)
