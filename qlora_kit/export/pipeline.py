"""From a run to files that others can use: merged weights, a GGUF file, or a GGUF adapter.

Everything is built in a folder beside, checked against the adapter, and renamed when it passed:
an export that is there is one whose parity report is good.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from .. import KitError
from ..data import Conversation, read, rows_of
from ..machine import exact_machine, flush_all, release_memory, write_text
from ..models import Tokenizer, load, quiet
from ..runs import Run, TrainConfig, open_run, require_trained, with_room
from .cards import license_of, model_card
from .gguf_writer import QUANTS, architecture_of, write_adapter, write_gguf
from .merging import dense_base, merge_adapter, require_mergeable
from .ollama import modelfile
from .outputs import Outputs, Prompts, gguf_outputs, make_prompts, model_outputs
from .parity import BOUNDS, Parity, Step, compare_outputs, require_parity, scores

# What the files of each target are, for the model card.
_DESCRIPTIONS = {
    "merged": "The adapter merged into the {into} weights of its base, in bf16 safetensors.",
    "gguf": "The adapter merged into the {into} weights of its base, as model-{quant}.gguf for "
    "llama.cpp. `ollama create NAME -f Modelfile` takes it into Ollama.",
    "adapter-gguf": "The adapter alone, adapter.gguf, and the {into} weights of its base, "
    "base-{quant}.gguf: `llama-server -m base-{quant}.gguf --lora adapter.gguf`.",
}
TARGETS = tuple(_DESCRIPTIONS)
_WAY_OUT = "Make room there, or choose another --output."


@dataclass(frozen=True)
class Exported:
    """What an export left. files: the names of the weights in the folder; bytes: of them all."""

    folder: Path
    files: tuple[str, ...]
    bytes: int
    parity: Parity

    def as_json(self) -> dict[str, Any]:
        """The export for a script."""
        report = {"folder": str(self.folder), "files": list(self.files), "bytes": self.bytes}
        return report | {"parity": self.parity.as_json()}


@dataclass(frozen=True)
class _Job:
    """What is asked for, and the folder to write into; say tells people how far it is."""

    run: Run
    quant: str
    into: str
    conversations: Sequence[Conversation]
    questions: int
    shard_size: str
    scratch: Path
    say: Callable[[str], None]


@dataclass
class _Check:
    """The outputs of base and adapter, and the steps that were compared with them so far."""

    prompts: Prompts
    base: Outputs
    adapter: Outputs
    into: str
    steps: list[Step] = field(default_factory=list)

    def step(self, name: str, outputs: Outputs, bound: str) -> None:
        limit = BOUNDS["original" if self.into == "original" else bound]
        step = compare_outputs(name, self.prompts, self.base, self.adapter, outputs, limit)
        self.steps.append(step)
        require_parity(self.parity())  # the first bad step ends it: the rest would only repeat it

    def parity(self) -> Parity:
        score = fmean(scores(self.prompts, self.adapter))
        return Parity(len(self.prompts.conversations), score, tuple(self.steps))


def export(
    run: str | Path,
    to: str,
    quant: str = "f16",
    into: str = "dequantized",
    data: str | Path | None = None,
    output: str | Path | None = None,
    questions: int = 32,
    shard_size: str = "2GB",
    report: Callable[[str], None] | None = None,
    prompt_field: str | None = None,
    completion_field: str | None = None,
) -> Exported:
    """Export a run, and keep the result only if it still is the model that was trained.

    Args:
        run: the run folder.
        to: "merged" for safetensors in bf16, "gguf" for one GGUF file, or "adapter-gguf" for the
            adapter alone beside a GGUF file of its base.
        quant: of the GGUF weights, one of `gguf_writer.QUANTS`.
        into: the base that the adapter is put on, "dequantized" or "original", see `merge`.
        data: held-out conversations for the check; None takes the training data.
        output: the folder to make; None means RUN/export/TO-QUANT.
        questions: how many conversations the check takes.
        shard_size: of the merged safetensors.
        report: called with a line of text before each stage.
        prompt_field, completion_field: the columns of question and answer in data; None takes
            those that the run was trained on, where data has them.

    Returns:
        The folder, its files, and the parity report that they passed.

    Raises:
        KitError: an unknown choice, conversations that cannot be read, no adapter or an empty one,
            an architecture that cannot be written, a folder that is there already, or a step that
            fails the parity gate.
    """
    opened = open_run(run)
    for value, choices in ((to, TARGETS), (quant, QUANTS)):
        if value not in choices:
            raise KitError(f"There is no {value!r}: choose one of {', '.join(choices)}.")
    require_mergeable(opened, into)
    name = to if to == "merged" else f"{to}-{quant}"
    final = Path(output).expanduser() if output else opened.folder / "export" / name
    conversations = _held_out(data, opened.config, (prompt_field, completion_field))
    description = _DESCRIPTIONS[to].format(into=into, quant=quant)
    say = report or (lambda line: None)
    writer = {"merged": _write_merged, "gguf": _write_gguf, "adapter-gguf": _write_both}[to]
    with _built_beside(final) as scratch:
        job = _Job(opened, quant, into, conversations, questions, shard_size, scratch, say)
        parity = writer(job)
        texts = {
            "README.md": model_card(opened, description, parity),
            "parity.json": json.dumps(parity.as_json(), indent=1, ensure_ascii=False) + "\n",
        }
        with_room(final, lambda: _publish(scratch, final, texts), _WAY_OUT)
    weights = sorted(p for p in final.iterdir() if p.suffix in (".gguf", ".safetensors"))
    size = sum(path.stat().st_size for path in weights)
    return Exported(final, tuple(path.name for path in weights), size, parity)


def _load(job: _Job) -> tuple[Any, Tokenizer]:
    job.say("loading the adapter on its base")
    tuned, tokenizer = job.run.load(exact_machine())
    require_trained(tuned, job.run.folder)
    return tuned, tokenizer


def _read_both(job: _Job, tuned: Any, tokenizer: Tokenizer) -> _Check:
    """What base and adapter say, as they are in transformers."""
    prompts = make_prompts(tuned, tokenizer, job.conversations, job.questions)
    job.say(f"reading base and adapter on {len(prompts.conversations)} questions")
    with tuned.disable_adapter():
        base = model_outputs(tuned, tokenizer, prompts)
    return _Check(prompts, base, model_outputs(tuned, tokenizer, prompts), job.into)


def _write_merged(job: _Job) -> Parity:
    """Save, then read what was saved: that is what others will load."""
    import torch

    model, tokenizer = _load(job)
    check = _read_both(job, model, tokenizer)
    job.say(f"merging into the {job.into} base")
    model = merge_adapter(model, job.run.config, job.into)
    model = model.to(torch.bfloat16)
    with quiet():
        with_room(job.scratch, partial(_save, job, model, tokenizer), _WAY_OUT)
    del model
    release_memory()
    job.say("reading the merged model")
    saved, tokenizer = load(str(job.scratch), "32bit", exact_machine())
    check.step("merged, bf16", model_outputs(saved, tokenizer, check.prompts), "merged")
    return check.parity()


def _write_gguf(job: _Job) -> Parity:
    model, tokenizer = _load(job)
    architecture_of(model.get_base_model().config)  # refused before the long work
    check = _read_both(job, model, tokenizer)
    job.say(f"merging into the {job.into} base")
    model = merge_adapter(model, job.run.config, job.into)
    check.step("merged, fp32", model_outputs(model, tokenizer, check.prompts), "f16")
    file = job.scratch / f"model-{job.quant}.gguf"
    _write_model(job, file, model, tokenizer, job.run.name)
    del model
    release_memory()
    job.say("reading it in llama.cpp")
    check.step(f"GGUF, {job.quant}", gguf_outputs(file, check.prompts), job.quant)
    return check.parity()


def _write_both(job: _Job) -> Parity:
    model, tokenizer = _load(job)
    adapter = write_adapter(model, job.scratch / "adapter.gguf", job.run.name)
    check = _read_both(job, model, tokenizer)
    model = dense_base(model, job.run.config, job.into)
    file = job.scratch / f"base-{job.quant}.gguf"
    _write_model(job, file, model, tokenizer, Path(job.run.config.model).name, adapter.name)
    del model
    release_memory()
    job.say("reading both in llama.cpp")
    outputs = gguf_outputs(file, check.prompts, adapter)
    check.step(f"GGUF adapter on {job.quant}", outputs, job.quant)
    return check.parity()


def _save(job: _Job, model: Any, tokenizer: Tokenizer) -> None:
    model.save_pretrained(job.scratch, max_shard_size=job.shard_size)
    tokenizer.save_pretrained(job.scratch)


def _write_model(
    job: _Job, path: Path, model: Any, tokenizer: Tokenizer, name: str, adapter: str = ""
) -> None:
    job.say(f"writing {path.name}")
    write_gguf(model, tokenizer, path, job.quant, name, license_of(job.run.config.model))
    text = modelfile(tokenizer, path.name, adapter, job.run.system, model)
    with_room(path, lambda: write_text(path.with_name("Modelfile"), text), _WAY_OUT)


def _held_out(
    data: str | Path | None, config: TrainConfig, columns: tuple[str | None, str | None]
) -> list[Conversation]:
    path = Path(data or config.data).expanduser()
    if data is None and not path.exists():
        raise KitError(
            f"The training data {config.data} are not there to check the export with. Give "
            "held-out conversations: --data heldout.jsonl"
        )
    return read(path, *(columns if any(columns) else _trained_columns(path, config)))


def _trained_columns(path: Path, config: TrainConfig) -> tuple[str | None, str | None]:
    """The columns that the run was trained on, or none where the file has another form."""
    trained = (config.prompt_field, config.completion_field)
    fields = {field for _, row in rows_of(path, []) for field in row}
    return trained if fields.issuperset(trained) else (None, None)


@contextmanager
def _built_beside(final: Path) -> Iterator[Path]:
    """A folder to build in, gone again where nobody has given it its final name."""
    if final.exists():
        raise KitError(f"{final} is there already. Remove it, or choose another --output.")
    scratch = final.parent / f".{final.name}-{secrets.token_hex(4)}"
    with_room(final, lambda: scratch.mkdir(parents=True), _WAY_OUT)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, final: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        write_text(scratch / name, text)
    flush_all(scratch)
    scratch.rename(final)
