"""From a run to files that others can use: merged weights, a GGUF file, or a GGUF adapter.

Everything is built in a folder beside, checked against the adapter, and renamed when it passed:
an export that is there is one whose parity report is good.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from .. import KitError
from ..data import Conversation, read, rows_of
from ..machine import exact_machine, release_memory
from ..models import Model, Tokenizer, load, quiet
from ..runs import TrainConfig, adapted_run, load_run, require_trained, trained_system
from .cards import license_of, model_card
from .gguf_writer import QUANTS, architecture_of, write_adapter, write_gguf
from .merging import BASES, load_base, merge
from .ollama import modelfile
from .outputs import Reading, Sheet, make_sheet, read_gguf, read_model
from .parity import BOUNDS, Bound, Parity, Step, compare, require_parity, scores

TARGETS = ("merged", "gguf", "adapter-gguf")


@dataclass(frozen=True)
class Exported:
    """What an export left. files: the names of the weights in the folder; bytes: of them all."""

    folder: Path
    files: tuple[str, ...]
    bytes: int
    parity: Parity


@dataclass(frozen=True)
class _Job:
    """What is asked for; say tells people how far it is."""

    folder: Path
    config: TrainConfig
    quant: str
    into: str
    shard_size: str
    say: Callable[[str], None]


@dataclass
class _Check:
    """The sheet with what base and adapter said, and the steps checked so far."""

    sheet: Sheet
    base: Reading
    adapter: Reading
    into: str
    steps: list[Step] = field(default_factory=list)

    def step(self, name: str, reading: Reading, bound: str) -> None:
        limits = [BOUNDS[bound], *([BOUNDS["original"]] if self.into == "original" else [])]
        loosest = Bound(max(b.kl_mean for b in limits), min(b.top1 for b in limits))
        self.steps.append(compare(name, self.sheet, self.base, self.adapter, reading, loosest))
        require_parity(self.report())  # the first bad step ends it: the rest would only repeat it

    def report(self) -> Parity:
        score = fmean(scores(self.sheet, self.adapter))
        return Parity(len(self.sheet.conversations), score, tuple(self.steps))


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
    folder, config = adapted_run(run)
    for value, known in ((to, TARGETS), (quant, QUANTS), (into, BASES)):
        if value not in known:
            raise KitError(f"There is no {value!r}: choose one of {', '.join(known)}.")
    job = _Job(folder, config, quant, into, shard_size, report or (lambda line: None))
    name = to if to == "merged" else f"{to}-{quant}"
    final = Path(output).expanduser() if output else folder / "export" / name
    conversations = _held_out(data, config, (prompt_field, completion_field))
    with _built_beside(final) as scratch:
        check = _read_both(job, to, scratch, conversations, questions)
        writers = {"merged": _write_merged, "gguf": _write_gguf, "adapter-gguf": _write_both}
        what = writers[to](job, scratch, check)
        parity = check.report()
        (scratch / "README.md").write_text(model_card(folder, config, what, parity), "utf-8")
        text = json.dumps(parity.as_json(), indent=1, ensure_ascii=False)
        (scratch / "parity.json").write_text(text + "\n", "utf-8")
    weights = sorted(p for p in final.iterdir() if p.suffix in (".gguf", ".safetensors"))
    size = sum(path.stat().st_size for path in weights)
    return Exported(final, tuple(path.name for path in weights), size, parity)


def _read_both(
    job: _Job, to: str, scratch: Path, conversations: list[Conversation], questions: int
) -> _Check:
    """Base and adapter, as they are in transformers; the adapter is written while it is there."""
    job.say("loading the adapter on its base")
    model, tokenizer = load_run(job.folder, exact_machine())
    require_trained(model, job.folder)
    if to != "merged":
        architecture_of(model.get_base_model().config)  # refused before the long work
    if to == "adapter-gguf":
        write_adapter(model, scratch / "adapter.gguf", job.folder.resolve().name)
    sheet = make_sheet(model, tokenizer, conversations, questions)
    job.say(f"reading base and adapter on {len(sheet.conversations)} questions")
    with model.disable_adapter():
        base = read_model(model, tokenizer, sheet)
    check = _Check(sheet, base, read_model(model, tokenizer, sheet), job.into)
    del model
    release_memory()
    return check


def _write_merged(job: _Job, scratch: Path, check: _Check) -> str:
    """Save, then read what was saved: that is what others will load."""
    import torch

    job.say(f"merging into the {job.into} base")
    model, tokenizer = merge(job.folder, job.into)
    with quiet():
        model.to(torch.bfloat16).save_pretrained(scratch, max_shard_size=job.shard_size)
        tokenizer.save_pretrained(scratch)
    del model
    release_memory()
    job.say("reading the merged model")
    model, tokenizer = load(str(scratch), "32bit", exact_machine())
    check.step("merged, bf16", read_model(model, tokenizer, check.sheet), "merged")
    return f"The adapter merged into the {job.into} weights of its base, in bf16 safetensors."


def _write_gguf(job: _Job, scratch: Path, check: _Check) -> str:
    job.say(f"merging into the {job.into} base")
    model, tokenizer = merge(job.folder, job.into)
    check.step("merged, fp32", read_model(model, tokenizer, check.sheet), "f16")
    file = f"model-{job.quant}.gguf"
    _write_model(job, scratch / file, model, tokenizer, job.folder.resolve().name)
    del model
    release_memory()
    job.say("reading it in llama.cpp")
    check.step(f"GGUF, {job.quant}", read_gguf(scratch / file, check.sheet), job.quant)
    return (
        f"The adapter merged into the {job.into} weights of its base, as {file} for llama.cpp. "
        "`ollama create NAME -f Modelfile` takes it into Ollama."
    )


def _write_both(job: _Job, scratch: Path, check: _Check) -> str:
    file = f"base-{job.quant}.gguf"
    model, tokenizer = load_base(job.config, job.into)
    name = Path(job.config.model).name
    _write_model(job, scratch / file, model, tokenizer, name, "adapter.gguf")
    del model
    release_memory()
    job.say("reading both in llama.cpp")
    reading = read_gguf(scratch / file, check.sheet, scratch / "adapter.gguf")
    check.step(f"GGUF adapter on {job.quant}", reading, job.quant)
    return (
        f"The adapter alone, adapter.gguf, and the {job.into} weights of its base, {file}: "
        f"`llama-server -m {file} --lora adapter.gguf`."
    )


def _write_model(
    job: _Job, path: Path, model: Model, tokenizer: Tokenizer, name: str, adapter: str = ""
) -> None:  # fmt: skip
    job.say(f"writing {path.name}")
    write_gguf(model, tokenizer, path, job.quant, name, license_of(job.config.model))
    text = modelfile(tokenizer, path.name, adapter, trained_system(job.folder), model)
    (path.parent / "Modelfile").write_text(text, "utf-8")


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
    """A folder that takes its name only when all went well, and else is gone."""
    if final.exists():
        raise KitError(f"{final} is there already. Remove it, or choose another --output.")
    scratch: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-"))
        yield scratch
        scratch.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
        scratch.rename(final)
    except OSError as problem:
        raise KitError(f"{final} could not be written: {problem.strerror or problem}.") from problem
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
