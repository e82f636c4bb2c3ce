"""qlora-kit on the command line: each verb has a file here, and no logic lives in them."""

import os
import sys
import warnings
from typing import Annotated

import typer

from .. import KitError, __version__
from ..machine import apply_thread_policy
from .audit import audit
from .chat import chat
from .course import course_app
from .demo import demo
from .doctor import doctor
from .documents import documents
from .evaluate import evaluate
from .export import export
from .models import models
from .plan import plan
from .serve import serve
from .tasks import tasks
from .train import train
from .verify import verify
from .workshop import workshop_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fine-tune a language model with QLoRA on modest hardware, and see that it worked.\n\n"
    "Example: qlora-kit train questions.jsonl --output runs/mine",
)
app.add_typer(course_app, name="course")
app.add_typer(workshop_app, name="workshop")


def main() -> None:
    """Run the command; a KitError becomes one message on standard error and exit code 1."""
    apply_thread_policy()  # before anything loads torch
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = lambda message, *_: print(f"qlora-kit: {message}", file=sys.stderr)
    try:
        app()
    except KitError as problem:
        print(f"qlora-kit: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nqlora-kit: stopped.", file=sys.stderr)
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"qlora-kit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                          help="Print the version.")] = False,
) -> None:  # fmt: skip
    pass


app.command(epilog="Example: qlora-kit doctor --json")(doctor)
app.command(epilog="Example: qlora-kit models fetch smollm2")(models)
app.command(
    epilog="Example: qlora-kit train gsm8k.jsonl --output runs/math "
    "--prompt-field question --completion-field answer --max-steps 50"
)(train)
app.command("eval", epilog="Example: qlora-kit eval runs/demo heldout.jsonl --json")(evaluate)
app.command(epilog="Example: qlora-kit tasks runs/demo arc_easy --limit 100")(tasks)
app.command(epilog="Example: qlora-kit chat runs/demo --prompt 'What is a Tessel?'")(chat)
app.command(epilog="Example: qlora-kit demo --output runs/demo")(demo)
app.command(epilog="Example: qlora-kit documents manual/ --output data/manual")(documents)
app.command(epilog="Example: qlora-kit audit train.jsonl --test test.jsonl")(audit)
app.command(epilog="Example: qlora-kit serve model.gguf --lora support=adapter.gguf")(serve)
app.command(epilog="Example: qlora-kit plan llama-3.1-8b --gpu t4 --batch 2")(plan)
app.command(epilog="Example: qlora-kit verify runs/mine --json")(verify)
app.command(epilog="Example: qlora-kit export runs/demo --to gguf --quant q8_0")(export)
