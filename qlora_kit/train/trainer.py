"""TRL's trainer, taught steps of micro-batches, logits only where there is loss, an order of rows
that a resumed run repeats, checkpoints that are whole, and to stop when the loss diverges.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTTrainer

from .. import KitError
from ..engine import (
    accumulate,
    bare_head,
    cached_when_it_fits,
    completion_loss,
    fused_layers,
    workers,
)
from ..machine import Machine, trim_memory
from ..models import Model
from ..runs import save_checkpoint, step_of

_EXPLODED = 3.0  # times the first loss
_TIDY_STEPS = 10  # kept memory frays as batches differ in shape; this takes the frays back
_WINDOW = 4  # losses averaged when judging divergence


class DivergedError(KitError):
    """The loss became NaN, infinite, or several times what it began with."""


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


class KitTrainer(SFTTrainer):
    """SFTTrainer whose step is a list of micro-batches from `MicroBatchCollator`.

    The weights with which the loss was last finite are kept in memory and come back when it
    diverges. low_memory: train as PEFT and bitsandbytes do, one micro-batch after another.
    """

    def __init__(self, *args: Any, low_memory: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.low_memory = low_memory
        self.losses: list[float] = []
        self.tokens = 0
        self.seconds = 0.0  # of earlier processes, when resumed
        self._good: dict[str, torch.Tensor] = {}

    def train_from(self, start: Path | None, done: bool) -> None:
        """Train, from a checkpoint when there is one.

        Args:
            start: the checkpoint, or None for the beginning.
            done: it is of the last step, so that only its weights are wanted.
        """
        if start is not None and done:  # killed between the last step and the end
            self._load_from_checkpoint(str(start))
            self.state.global_step = step_of(start)
        else:
            self.train(resume_from_checkpoint=str(start) if start else None)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """transformers' grouping draws from the global generator: resumed, it would differ."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(rows)
        lengths = [len(ids) for ids in rows["input_ids"]]
        return GroupedSampler(lengths, self.args.train_batch_size, self.args.seed)

    @contextmanager
    def sped_up(self, machine: Machine) -> Iterator[None]:
        """Train inside: on a CPU with cached weights, fused layers, micro-batches side by side.

        On a GPU, and in low memory, with head and loss in one, which never holds all logits.

        Args:
            machine: decides, with the memory that is free now.
        """
        if self.low_memory or machine.device != "cpu":
            with bare_head(self.model):
                yield
            return
        dtype = getattr(torch, machine.compute_dtype)
        with cached_when_it_fits(self.model, machine), fused_layers(self.model, dtype) as on:
            if on:
                self.data_collator.at_once = workers()
            try:
                yield
            finally:
                self.data_collator.at_once = 1

    def training_step(
        self, model: Model, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward over the micro-batches; the loss is the mean over all tokens."""
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
        reference = max(self.losses[0], 1.0)
        recent = sum(self.losses[-_WINDOW:]) / len(self.losses[-_WINDOW:])
        if not math.isfinite(loss):
            self._stop("is no longer a number")
        elif recent > _EXPLODED * reference:
            self._stop(f"grew from {self.losses[0]:.2f} to {recent:.2f}")
        elif loss < _EXPLODED * reference:
            self._good = {name: p.detach().clone() for name, p in self._trainable}

    def _stop(self, became: str) -> None:
        with torch.no_grad():
            for name, parameter in self._trainable:
                if name in self._good:
                    parameter.copy_(self._good[name])
        raise DivergedError(
            f"Stopped at step {self.state.global_step + 1}: the loss {became}. Try a third of the "
            f"learning rate (--learning-rate {self.args.learning_rate / 3:.1g}), or --precision "
            "32bit to rule out the number format."
        )

    def require_finite(self) -> None:
        """Stop, with the last good weights back, when an update left some that are no numbers.

        Raises:
            DivergedError: an infinite or NaN weight.
        """
        if not all(torch.isfinite(parameter).all() for _, parameter in self._trainable):
            self._stop("led to weights that are no numbers")

    @cached_property
    def _trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def _save_checkpoint(self, model: Model, trial: Any) -> None:
        """The Trainer writes straight into its folder, state last; here it is all or nothing."""
        self.require_finite()
        step, home = self.state.global_step, self.args.output_dir

        def write(scratch: Path) -> None:
            self.args.output_dir = str(scratch)
            try:
                super(SFTTrainer, self)._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = home
            written = scratch / f"checkpoint-{step}"
            for path in written.iterdir():
                path.rename(scratch / path.name)
            written.rmdir()

        save_checkpoint(Path(home), step, write)
