"""transformers' trainer, taught steps of micro-batches, logits only where there is loss, an order
of rows that a resumed run repeats, checkpoints that are whole, and to stop when the loss diverges.

Why not TRL's `SFTTrainer`: of what it adds (the data's preparation, collators, the loss, the
adapters' dtype) nothing would be left here, and rounding adapters to bf16 had to be undone. TRL
stays what training is held against, unmodified: `tests/train/test_trl.py`, the same losses.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..engine import accumulate, completion_loss, fast_training
from ..machine import Machine, trim_memory
from ..runs import Start, save_checkpoint, step_of
from .errors import DivergedError

_EXPLODED = 3.0  # times the first loss
_TIDY_STEPS = 10  # kept memory frays as batches differ in shape; this takes the frays back
_WINDOW = 4  # losses averaged when judging divergence


class GroupedSampler(Sampler[int]):
    """Rows of like length together, in an order that only the seed and the epoch decide.

    Args:
        lengths: tokens of each row.
        batch_size: rows of a step.
        seed: of the order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


class KitTrainer(Trainer):
    """A trainer whose step is a list of micro-batches from `MicroBatchCollator`.

    The weights with which the loss was last finite are kept in memory and come back when it
    diverges. low_memory: train as PEFT and bitsandbytes do, one micro-batch after another.
    """

    model: Any  # the libraries' layers, which types say little of
    data_collator: Any

    def __init__(self, *args: Any, low_memory: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)  # it prints each log line where there is no bar
        self.low_memory = low_memory
        self.losses: list[float] = []
        self.tokens = 0
        self._earlier = 0.0  # seconds of the processes before this one
        self._began = time.perf_counter()
        self._good: dict[str, torch.Tensor] = {}

    def recall(self, start: Start) -> None:
        """Take over what earlier processes have noted of this run.

        Args:
            start: where the run goes on, with its metrics up to there.
        """
        self.losses = [line["loss"] for line in start.past]
        if start.past:
            self.tokens, self._earlier = start.past[-1]["tokens"], start.past[-1]["seconds"]

    def train_from(self, checkpoint: Path | None, done: bool) -> None:
        """Train, from a checkpoint when there is one.

        Args:
            checkpoint: None for the beginning.
            done: it is of the last step, so that only its weights are wanted.
        """
        self._began = time.perf_counter()
        if checkpoint is not None and done:  # killed between the last step and the end
            self._load_from_checkpoint(str(checkpoint))
            self.state.global_step = step_of(checkpoint)
        else:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    @property
    def seconds(self) -> float:
        """Of training so far, with what earlier processes did of it."""
        return self._earlier + time.perf_counter() - self._began

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """transformers' grouping draws from the global generator: resumed, it would differ."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(row.input_ids) for row in rows]
        return GroupedSampler(lengths, self.args.train_batch_size, self.args.seed)

    @contextmanager
    def sped_up(self, machine: Machine) -> Iterator[None]:
        """Train inside, as fast as this machine can (`fast_training`).

        Args:
            machine: decides, with the memory that is free now.
        """
        with fast_training(self.model, machine, self.low_memory) as at_once:
            self.data_collator.at_once = at_once
            try:
                yield
            finally:
                self.data_collator.at_once = 1

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward over the micro-batches of one optimizer step.

        Args:
            model: in training mode or not; it is put into it.
            inputs: from `MicroBatchCollator`: micro_batches, each of (rows, padded tokens); tokens
                and learned, the whole step's real and labeled tokens.
            num_items_in_batch: not used; learned is.

        Returns:
            The mean loss of all labeled tokens of the step, in nats: one number, detached.

        Raises:
            DivergedError: it is no number, or several times the first.
        """
        if not model.training:
            model.train()
        inputs = self._prepare_inputs(inputs)

        def loss_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            with self.compute_loss_context_manager():
                return completion_loss(model, batch) / inputs["learned"]

        total = 0.0
        if self.data_collator.at_once > 1:
            trained = [parameter for _, parameter in self._trainable]
            total = accumulate(trained, loss_of, inputs["micro_batches"])
        else:
            for batch in inputs["micro_batches"]:
                loss = loss_of(batch)
                self.accelerator.backward(loss)
                total += loss.item()
        self.tokens += inputs["tokens"]
        self._judge(total)
        if len(self.losses) % _TIDY_STEPS == 0:
            trim_memory()
        return torch.tensor(total, device=self.args.device)

    def _judge(self, loss: float) -> None:
        """Keep the weights that gave a good loss; stop where the loss is lost."""
        self.losses.append(loss)
        reference, step = max(self.losses[0], 1.0), self.state.global_step + 1
        recent = sum(self.losses[-_WINDOW:]) / len(self.losses[-_WINDOW:])
        if not math.isfinite(loss):
            self._stop(step, "is no longer a number")
        elif recent > _EXPLODED * reference:
            self._stop(step, f"grew from {self.losses[0]:.2f} to {recent:.2f}")
        elif loss < _EXPLODED * reference:
            self._good = {name: p.detach().clone() for name, p in self._trainable}

    def _stop(self, step: int, became: str) -> None:
        with torch.no_grad():
            for name, parameter in self._trainable:
                if name in self._good:
                    parameter.copy_(self._good[name])
        raise DivergedError(
            f"Stopped at step {step}: the loss {became}. Try a third of the "
            f"learning rate (--learning-rate {self.args.learning_rate / 3:.1g}), or --precision "
            "32bit to rule out the number format."
        )

    def require_finite(self) -> None:
        """Stop, with the last good weights back, when an update left some that are no numbers.

        Raises:
            DivergedError: an infinite or NaN weight.
        """
        if not all(torch.isfinite(parameter).all() for _, parameter in self._trainable):
            self._stop(self.state.global_step, "led to weights that are no numbers")

    @cached_property
    def _trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer writes straight into its folder, state last; here it is all or nothing."""
        self.require_finite()
        step, home = self.state.global_step, str(self.args.output_dir)

        def write(scratch: Path) -> None:
            self.args.output_dir = str(scratch)
            try:
                super(KitTrainer, self)._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = home
            written = scratch / f"checkpoint-{step}"
            for path in written.iterdir():
                path.rename(scratch / path.name)
            written.rmdir()

        save_checkpoint(Path(home), step, write)
