"""`fine_tune(config)`: QLoRA with TRL, PEFT and bitsandbytes, set up rightly for this machine."""

import dataclasses
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import KitError, checkpoint
from .config import TrainConfig
from .data import Conversation, encode_all, read
from .fetch import quiet
from .hardware import GB, Machine, detect, keep_freed_memory, peak_rss_gb, versions
from .models import load, resolve

_DENSE_RESERVE_GB = 1.5  # left for activations when the dequantized weights are cached


@dataclass(frozen=True)
class Run:
    """What a fine-tuning left behind.

    path: the run folder.   status: "finished", "interrupted" or "diverged".
    steps: optimizer steps done.   loss: mean over the last tenth of them, in nats a token.
    tokens: real tokens trained on, padding not counted.   seconds: of training alone.
    """

    path: Path
    status: str
    steps: int
    loss: float
    tokens: int
    seconds: float
    peak_rss_gb: float

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second of training."""
        return self.tokens / self.seconds


def fine_tune(config: TrainConfig, resume: bool = False, progress: bool = True) -> Run:
    """Fine-tune a model with QLoRA and leave a run folder.

    The folder holds the adapter in plain PEFT format (`PeftModel.from_pretrained(base, folder)`
    loads it without this package), config.yaml, metrics.jsonl and loss.png.

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
    folder = Path(config.output).expanduser()
    conversations = read(config.data, config.prompt_field, config.completion_field)
    start = _prepare_folder(folder, config, resume)
    machine = detect()
    if config.compute_dtype:
        machine = dataclasses.replace(machine, compute_dtype=config.compute_dtype)
    keep_freed_memory()
    trainer = build_trainer(config, conversations, machine, folder, progress)
    run = _run(trainer, folder, machine, start)
    first = conversations[0].messages[0]
    record = {**asdict(run), "path": None, "tokens_per_second": run.tokens_per_second,
              "system": first["content"] if first["role"] == "system" else None,
              "machine": str(machine), "versions": versions()}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return run


def _prepare_folder(folder: Path, config: TrainConfig, resume: bool) -> Path | None:
    """Refuse to mix two runs in one folder; find where to go on."""
    import yaml

    start = checkpoint.latest(folder / "checkpoints") if resume else None
    used = (folder / "adapter_config.json").exists() or (folder / "checkpoints").exists()
    if used and not resume:
        raise KitError(
            f"{folder} already holds a run. Go on with it (--resume), choose another --output, or "
            "remove it."
        )
    if folder.exists() and not folder.is_dir():
        raise KitError(f"{folder} is a file; --output must name a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False))
        metrics = folder / "metrics.jsonl"
        done = int(start.name.split("-")[1]) if start else 0
        kept = metrics.read_text().splitlines()[:done] if metrics.exists() else []
        metrics.write_text("".join(line + "\n" for line in kept))
    except OSError as problem:
        raise KitError(f"{folder} cannot be written to: {problem.strerror}.") from problem
    return start


def build_trainer(
    config: TrainConfig,
    conversations: list[Conversation],
    machine: Machine,
    folder: Path,
    progress: bool = True,
) -> Any:
    """The model with fresh adapters inside a trainer, ready for `trainer.train()`.

    Args:
        config: the run.
        conversations: what to train on.
        machine: decides dtypes.
        folder: the run folder.
        progress: show a live bar.
    """
    from datasets import Dataset
    from transformers import set_seed

    from .trainer import InterruptCallback, KitTrainer, MicroBatchCollator, ProgressCallback

    set_seed(config.seed)
    model, tokenizer = load(config.model, config.precision, machine)
    examples, warning = encode_all(tokenizer, conversations, config.max_length, config.data)
    if warning:
        warnings.warn(warning, stacklevel=2)
    rows = Dataset.from_dict({"input_ids": [example.input_ids for example in examples],
                              "labels": [example.labels for example in examples]})  # fmt: skip
    holder: list[Any] = []
    with quiet():
        model = attach_adapters(model, config)
        model.config.use_cache = False
        trainer = KitTrainer(
            run_folder=folder,
            model=model,
            args=_arguments(config, machine, folder),
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=MicroBatchCollator(tokenizer.pad_token_id, config.token_budget),
            callbacks=[
                ProgressCallback(lambda: holder[0], folder / "metrics.jsonl", progress),
                InterruptCallback(),
            ],
        )
    holder.append(trainer)
    _drop_callbacks(trainer)
    # TRL casts a quantized model's adapters to bf16; steps smaller than their last bit are lost.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def attach_adapters(model: Any, config: TrainConfig) -> Any:
    """Freeze a model and put a LoRA adapter on each of its linear layers.

    Args:
        model: from `models.load`.
        config: its rank, alpha and dropout are used.

    Returns:
        A PEFT model whose adapters are in fp32.
    """
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
                      target_modules="all-linear", task_type="CAUSAL_LM")  # fmt: skip
    model.config.name_or_path = resolve(config.model).location
    return get_peft_model(model, lora)


def _arguments(config: TrainConfig, machine: Machine, folder: Path) -> Any:
    from trl import SFTConfig

    cuda = machine.device == "cuda"
    arguments = SFTConfig(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear" if config.schedule == "linear" else "constant_with_warmup",
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        adam_beta2=config.beta2,
        max_grad_norm=config.max_grad_norm,
        optim="paged_adamw_8bit" if cuda else "adamw_torch",
        bf16=cuda and machine.compute_dtype == "bfloat16",
        fp16=cuda and machine.compute_dtype == "float16",
        use_cpu=machine.device == "cpu",
        gradient_checkpointing=cuda,
        gradient_checkpointing_kwargs={"use_reentrant": False} if cuda else None,
        max_length=None,  # rows are cut when they are encoded
        remove_unused_columns=False,
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
        arguments._n_gpu = 1  # TRL refuses DataParallel; one GPU serves
    return arguments


def _run(trainer: Any, folder: Path, machine: Machine, start: Path | None) -> Run:
    from . import plots
    from .trainer import DivergedError, InterruptCallback

    interrupt = next(
        callback for callback in trainer.callback_handler.callbacks
        if isinstance(callback, InterruptCallback)
    )  # fmt: skip
    began = time.perf_counter()
    failure: DivergedError | None = None
    with _dense(trainer.model, machine), quiet():
        try:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        except DivergedError as problem:
            failure = problem
    seconds = time.perf_counter() - began
    trainer.model.save_pretrained(folder)
    plots.loss_curve(folder / "metrics.jsonl", folder / "loss.png")
    if failure is not None:
        raise DivergedError(f"{failure} The last good adapter is in {folder}.") from failure
    if interrupt.interrupted:
        status = "interrupted"
    else:
        status = "finished"
        _require_trained(trainer.model, folder)
    tail = trainer.losses[-max(1, len(trainer.losses) // 10) :]
    return Run(
        path=folder,
        status=status,
        steps=trainer.state.global_step,
        loss=sum(tail) / len(tail) if tail else float("nan"),
        tokens=trainer.tokens,
        seconds=seconds,
        peak_rss_gb=peak_rss_gb(),
    )


def _require_trained(model: Any, folder: Path) -> None:
    """B starts at 0; where it still is, nothing was learned (qlora#38)."""
    untouched = [
        name for name, p in model.named_parameters() if "lora_B" in name and not p.detach().any()
    ]
    if untouched:
        raise KitError(
            f"The adapter in {folder} did not train: {len(untouched)} of its B are zero."
        )


@contextmanager
def _dense(model: Any, machine: Machine) -> Iterator[None]:
    """On a CPU, cache the dequantized weights when there is room for them."""
    import torch

    from .qlora import dense_cache

    dtype = getattr(torch, machine.compute_dtype)
    quantized = sum(p.numel() for p in model.parameters() if p.dtype == torch.uint8) * 2
    needed = quantized * dtype.itemsize / GB + _DENSE_RESERVE_GB
    if machine.device != "cpu" or needed > machine.free_memory_gb:
        yield
        return
    with dense_cache(model, dtype):
        yield


def _drop_callbacks(trainer: Any) -> None:
    """transformers prints each log line where there is no bar; ours is shown instead."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
