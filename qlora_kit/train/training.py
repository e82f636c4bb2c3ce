"""`fine_tune(config)`: QLoRA with transformers, PEFT and bitsandbytes, right for this machine."""

import dataclasses
import importlib.util
import json
import math
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..data import (
    Conversation,
    MicroBatchCollator,
    encode_all,
    is_packable,
    read,
    require_packable,
    stop_ids,
)
from ..machine import (
    Machine,
    detect,
    keep_freed_memory,
    peak_rss_gb,
    release_memory,
    renew_pyarrow,
    trim_memory,
    versions,
    write_text,
)
from ..models import load, quiet
from ..runs import (
    FAR_ABOVE,
    Start,
    TrainConfig,
    begin_run,
    claim_folder,
    default_learning_rate,
    finish_manifest,
    hash_inputs,
    locked_folder,
    open_run,
    require_trained,
    save_model,
    with_room,
)
from .adapters import attach_adapters
from .errors import DivergedError

_LOW_MEMORY_TOKENS = 128  # at once, or one row; chosen by hand


@dataclass(frozen=True)
class TrainResult:
    """What a fine-tuning left behind.

    path: the run folder.   status: "finished" or "interrupted".
    steps: optimizer steps done.   loss: mean over the last tenth of them, in nats a token.
    learning_rate: at its peak.
    tokens: real tokens trained on, padding not counted.   seconds: of training alone.
    """

    path: Path
    status: str
    steps: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float
    peak_rss_gb: float

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second of training."""
        return self.tokens / self.seconds


def fine_tune(config: TrainConfig, resume: bool = False, progress: bool = True) -> TrainResult:
    """Fine-tune a model with QLoRA and leave a run folder.

    The folder holds the adapter in plain PEFT format (`PeftModel.from_pretrained(base, folder)`
    loads it without this package) or, with method "full", the model and its tokenizer; and
    config.yaml, metrics.jsonl and loss.png.

    In the process it sets the seeds of torch, numpy and random, and on a CPU lets malloc keep
    what is freed until the end; while it trains, the first Ctrl-C stops after the step.

    Args:
        config: the run.
        resume: go on from the newest complete checkpoint in the run folder.
        progress: show a live bar.

    Returns:
        The run; status "interrupted" after Ctrl-C, with a checkpoint to resume from.

    Raises:
        KitError: bad data, model or configuration; a run folder in use; a loss that diverged
            (the last good adapter is saved before it is raised).
    """
    _require_one_process()
    folder = Path(config.output).expanduser()
    inputs = hash_inputs(config)
    conversations = read(config.data, config.prompt_field, config.completion_field)
    with locked_folder(folder):  # nobody else writes to it meanwhile
        steps = total_steps(config.max_steps, config.epochs, config.batch_size, len(conversations))
        start = claim_folder(folder, config, resume, steps)
        machine = detect()
        if config.compute_dtype:
            machine = dataclasses.replace(machine, compute_dtype=config.compute_dtype)
        trainer = build_trainer(config, conversations, machine, folder, steps)
        trainer.recall(start)
        begin_run(folder, config, machine, start, inputs)
        trim_memory()  # loading held the weights twice
        if not config.low_memory:
            keep_freed_memory()
        run = _run(trainer, folder, machine, start, steps, progress)
        first = conversations[0].messages[0]
        record = asdict(run) | {
            "tokens_per_second": run.tokens_per_second,
            "system": first["content"] if first["role"] == "system" else None,
            "machine": str(machine),
            "versions": versions(),
        }
        del record["path"]  # the folder may move
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        with_room(folder, lambda: write_text(folder / "run.json", text))
    del trainer  # with the model, which the next one should not stand beside
    release_memory()
    return run


def _require_one_process() -> None:
    """Several ranks would each train a model of its own and write into one folder."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world not in ("", "1"):
        raise KitError(
            f"qlora-kit trains in one process, and this is one of {world} (WORLD_SIZE). Start it "
            "without torchrun or accelerate launch; on a machine with several GPUs it takes one."
        )


def total_steps(max_steps: int | None, epochs: float, batch_size: int, rows: int) -> int:
    """How many optimizer steps a run takes.

    Args:
        max_steps: when given, they count; else the passes over the data.
        epochs: those passes.
        batch_size: conversations a step.
        rows: conversations to train on.
    """
    return max_steps or math.ceil(epochs * math.ceil(rows / batch_size))


def build_trainer(
    config: TrainConfig,
    conversations: list[Conversation],
    machine: Machine,
    folder: Path,
    steps: int,
) -> Any:
    """The model with its adapters inside a trainer, ready for `trainer.train()`.

    Args:
        config: the run.
        conversations: what to train on.
        machine: decides dtypes.
        folder: the run folder.
        steps: optimizer steps, from `total_steps`.

    Returns:
        A `KitTrainer`; all that it trains is in fp32.
    """
    renew_pyarrow()  # before what follows imports it
    from transformers import set_seed

    from .trainer import KitTrainer

    with quiet():
        arguments = _arguments(config, machine, folder, steps)
    set_seed(config.seed)
    model, tokenizer = load(config.model, config.precision, machine)
    suited = default_learning_rate(model.num_parameters(), config.method)
    arguments.learning_rate = config.learning_rate or suited
    if arguments.learning_rate > FAR_ABOVE * suited:
        warnings.warn(
            f"A learning rate of {arguments.learning_rate:g} is far above {suited:g}, which suits "
            f"a model of {model.num_parameters():,} parameters: it may forget or diverge. Without "
            "one (--learning-rate, learning_rate) that is taken.",
            stacklevel=3,
        )
    examples, warning = encode_all(
        tokenizer, conversations, config.max_length, config.data, stop_ids(tokenizer, model)
    )
    if warning:
        warnings.warn(warning, stacklevel=2)
    if config.packing:
        require_packable(model)
    # What it saves was measured on CPUs only.
    sharing = machine.device == "cpu" and not config.dropout and is_packable(model)
    budget = config.token_budget
    if config.low_memory:
        budget = min(budget, _LOW_MEMORY_TOKENS)
    collator = MicroBatchCollator(tokenizer.pad_token_id, budget, config.packing, sharing)
    if config.method == "lora":
        model = attach_adapters(model, config)
        if machine.device == "cuda":  # else nothing that is checkpointed has a gradient
            model.enable_input_require_grads()
    model.config.use_cache = False
    with quiet():
        return KitTrainer(
            low_memory=config.low_memory,
            model=model,
            args=arguments,
            train_dataset=examples,
            processing_class=tokenizer,
            data_collator=collator,
        )


def _arguments(config: TrainConfig, machine: Machine, folder: Path, steps: int) -> Any:
    from transformers import TrainingArguments

    if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
        raise KitError(f"{config.report_to} is not installed: pip install {config.report_to}")
    cuda = machine.device == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=1,
        lr_scheduler_type="linear" if config.schedule == "linear" else "constant_with_warmup",
        warmup_steps=int(config.warmup * steps),
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.max_grad_norm,
        optim="paged_adamw_8bit" if cuda else "adamw_torch_fused",
        bf16=cuda and machine.compute_dtype == "bfloat16",
        fp16=cuda and machine.compute_dtype == "float16",
        use_cpu=machine.device == "cpu",
        gradient_checkpointing=cuda,
        gradient_checkpointing_kwargs={"use_reentrant": False} if cuda else None,
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        report_to=[] if config.report_to == "none" else [config.report_to],
        disable_tqdm=True,
        dataloader_pin_memory=cuda,
        seed=config.seed,
    )
    if cuda and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # DataParallel would copy the 4-bit weights; one GPU serves
    return arguments


def _run(
    trainer: Any, folder: Path, machine: Machine, start: Start, steps: int, progress: bool
) -> TrainResult:
    """The training itself, and what it leaves in the folder."""
    from .. import plots
    from .callbacks import InterruptCallback, ProgressCallback

    bar = ProgressCallback(trainer, folder / "metrics.jsonl", progress)
    interruption = InterruptCallback()
    trainer.add_callback(bar)
    trainer.add_callback(interruption)
    failure: DivergedError | None = None
    with trainer.sped_up(machine), quiet(warn=True):
        try:
            trainer.train_from(start.checkpoint, start.done >= steps)
            trainer.require_finite()
        except DivergedError as problem:
            failure = problem
        finally:
            bar.restore()
            interruption.restore()
    seconds = trainer.seconds
    save_model(folder, trainer.model, trainer.processing_class)
    with_room(folder, lambda: finish_manifest(folder))
    metrics = open_run(folder).metrics()
    if metrics:  # a loss that was lost at the first step left no line
        with_room(folder, lambda: plots.loss_curve(metrics, folder / "loss.png"))
    if failure is not None:
        raise DivergedError(f"{failure} The last good adapter is in {folder}.") from failure
    interrupted = trainer.state.global_step < steps
    if not interrupted and hasattr(trainer.model, "peft_config"):
        require_trained(trainer.model, folder, all_layers=True)
    tail = trainer.losses[-max(1, len(trainer.losses) // 10) :]
    return TrainResult(
        path=folder,
        status="interrupted" if interrupted else "finished",
        steps=trainer.state.global_step,
        loss=sum(tail) / len(tail) if tail else float("nan"),
        learning_rate=trainer.args.learning_rate,
        tokens=trainer.tokens,
        seconds=seconds,
        peak_rss_gb=peak_rss_gb(),
    )
