"""qlora-kit on the command line: a thin skin over the modules, no logic lives here."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from . import KitError, __version__
from .cli_course import course_app
from .cli_data import audit, documents
from .cli_export import export
from .cli_plan import plan
from .cli_run import verify
from .cli_serve import serve
from .cli_workshop import workshop_app
from .hardware import apply_thread_policy

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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


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


def _console() -> Any:
    from rich.console import Console

    return Console()


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


@app.command(epilog="Example: qlora-kit doctor --json")
def doctor(as_json: Json = False) -> None:
    """Look at this machine: what works, what is slow, and the line that mends it."""
    from .hardware import doctor as look
    from .hardware import doctor_report

    checks = look()
    report = doctor_report(checks)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        for check in checks:
            print(f"{check.status:<5} {check.name:<13} {check.detail}")
            if check.fix:
                print(f"{'':<19} mend it with: {check.fix}")
    if not report["ok"]:
        raise typer.Exit(1)


@app.command(epilog="Example: qlora-kit models fetch smollm2")
def models(
    action: Annotated[str, typer.Argument(help="list, or fetch a bundled model")] = "list",
    name: Annotated[str, typer.Argument(help="the bundled model to fetch")] = "smollm2",
    force: Annotated[bool, typer.Option(help="Build it again, also when it is there.")] = False,
    as_json: Json = False,
) -> None:
    """List the models at hand, or make a bundled one ready for offline use."""
    from .fetch import BUNDLED, cached_models, fetch

    if action == "fetch":
        folder = fetch(name, force)
        print(json.dumps({"name": name, "folder": str(folder)}) if as_json else folder)
        return
    if action != "list":
        raise KitError(f"No action {action!r}: use 'list' or 'fetch'.")
    cached = {name: (folder, size) for name, folder, size in cached_models()}
    names = list(dict.fromkeys([*BUNDLED, *cached]))
    table: list[dict[str, Any]] = [
        {"name": name, "folder": None, "size_gb": None} for name in names
    ]
    for row in table:
        if row["name"] in cached:
            folder, size = cached[row["name"]]
            row.update(folder=str(folder), size_gb=round(size, 3))
    if as_json:
        print(json.dumps(table, indent=1))
        return
    for row in table:
        here = f"{row['size_gb']} GB in {row['folder']}" if row["folder"] else "not fetched yet"
        print(f"{row['name']:<12} {here}")
    print("Also: a Hub id (org/name), a folder with safetensors, or a .gguf file.")


@app.command(
    epilog="Example: qlora-kit train gsm8k.jsonl --output runs/math "
    "--prompt-field question --completion-field answer --max-steps 50"
)
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
    from .config import load_config, make_config

    local = {k: v for k, v in locals().items() if k in _TRAIN_OPTIONS and v is not None}
    settings = load_config(config, **local) if config else make_config(local, "qlora-kit train")
    from .train import fine_tune

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


@app.command("eval", epilog="Example: qlora-kit eval runs/demo heldout.jsonl --json")
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
    from .data import bundled_data, read
    from .evaluate import evaluate as score
    from .evaluate import load_run, longer_than, trained_on
    from .likelihood import read_probe
    from .report import print_examples, print_scoreboard, save

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
    page = save(board, run, f"{run.name} on {data.name}{seen}")
    if as_json:
        print(json.dumps(board.as_json(), ensure_ascii=False))
        return
    console = _console()
    print_examples(board, console)
    print_scoreboard(board, console)
    console.print(f"Report: {page}")


@app.command(epilog="Example: qlora-kit tasks runs/demo arc_easy --limit 100")
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

    from .evaluate import as_base, load_run, ready
    from .harness import run_tasks

    model, tokenizer = load_run(run)
    with ready(model), as_base(model) if base else nullcontext():
        scores = run_tasks(model, tokenizer, names, folder, limit)
    if as_json:
        print(json.dumps([vars(score) for score in scores]))
        return
    for score in scores:
        error = f" \u00b1 {score.error:.3f}" if score.error is not None else ""
        print(f"{score.task:<24} {score.metric:<12} {score.value:.3f}{error}")


@app.command(epilog="Example: qlora-kit chat runs/demo --prompt 'What is a Tessel?'")
def chat(
    run: Annotated[str, typer.Argument(help="A run folder, or a server's http://...")],
    prompt: Annotated[str | None, typer.Option(help="Ask this once and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    base: Annotated[bool, typer.Option(help="Talk to the base model instead.")] = False,
    model: Annotated[str | None, typer.Option(help="Of a server: the adapter's name.")] = None,
    api_key: Annotated[str | None, typer.Option(
        help="That a server wants.", envvar="QLORA_KIT_API_KEY")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Where an answer is cut.", min=1)] = 200,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Talk to a tuned model; an empty line or Ctrl-D ends it."""
    from .talk import converse, open_talk

    if prompt is not None and not prompt.strip():
        raise KitError("The prompt is empty.")
    talk = open_talk(run, system, base, max_new_tokens, model, api_key)
    if prompt is None:
        converse(talk)
        return
    answer = talk.ask(prompt)
    print(json.dumps({"prompt": prompt, "answer": answer.text, "stopped": answer.stopped},
                     ensure_ascii=False) if as_json else answer.text)  # fmt: skip


@app.command(epilog="Example: qlora-kit demo --output runs/demo")
def demo(
    output: Annotated[Path, typer.Option(help="The run folder to write.")] = Path("runs/demo"),
) -> None:
    """Fine-tune the bundled model on the bundled support data, and show that it worked."""
    from .demo import demo as show

    show(output, _console())


app.command(epilog="Example: qlora-kit documents manual/ --output data/manual")(documents)
app.command(epilog="Example: qlora-kit audit train.jsonl --test test.jsonl")(audit)
app.command(epilog="Example: qlora-kit serve model.gguf --lora support=adapter.gguf")(serve)
app.command(epilog="Example: qlora-kit plan llama-3.1-8b --gpu t4 --batch 2")(plan)
app.command(epilog="Example: qlora-kit verify runs/mine --json")(verify)
app.command(epilog="Example: qlora-kit export runs/demo --to gguf --quant q8_0")(export)


if __name__ == "__main__":
    main()
