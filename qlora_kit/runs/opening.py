"""A run opened: its settings, its records, and its base model with its adapter on."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import Machine
from ..models import Model, Tokenizer, load
from . import manifest
from .adapters import load_adapter, require_adapter, whole_model_hint
from .config import TrainConfig, load_config


@dataclass(frozen=True)
class Run:
    """A run folder and the settings in its config.yaml; all else is read when it is asked for."""

    folder: Path
    config: TrainConfig

    @cached_property
    def manifest(self) -> manifest.Manifest | None:
        """What the run was made from; None in a run of an earlier version."""
        return manifest.read(self.folder)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def system(self) -> str | None:
        """The system prompt of the training data, when their first conversation had one."""
        return self.result().get("system")

    def result(self) -> dict[str, Any]:
        """What run.json tells of a training that ended: steps, loss, seconds; else empty."""
        return _record(self.folder / "run.json")

    def scoreboard(self) -> dict[str, Any]:
        """What `eval` measured last, from scoreboard.json; else empty."""
        return _record(self.folder / "scoreboard.json")

    def metrics(self) -> list[dict[str, Any]]:
        """Step, loss, tokens and seconds of each step; a power cut may have cost the last ones."""
        file = self.folder / "metrics.jsonl"
        steps: list[dict[str, Any]] = []
        for line in file.read_text("utf-8", "replace").splitlines() if file.exists() else []:
            try:
                step = json.loads(line)
                step["loss"] = float(step["loss"])
                step["tokens"] = int(step["tokens"])
                step["seconds"] = float(step["seconds"])
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                break
            steps.append(step)
        return steps

    def load(self, machine: Machine | None = None) -> tuple[Model, Tokenizer]:
        """Load the base model with the adapter on; of a full fine-tuning, the model itself.

        Args:
            machine: defaults to this one.

        Returns:
            (model in eval mode, tokenizer); a PEFT model unless all weights were trained.

        Raises:
            KitError: a run that left no result, an adapter that does not fit, or a base that is
                not the one it was trained on, see `manifest.require_match`.
        """
        if (self.folder / "model.safetensors").exists():
            manifest.require_match(self.folder, self.config.model)
            return load(str(self.folder), self.config.precision, machine)
        require_adapter(self.folder)
        model, tokenizer = load(self.config.model, self.config.precision, machine)
        manifest.require_match(self.folder, self.config.model)  # a base from the Hub is here now
        return load_adapter(model, self.folder), tokenizer


def open_run(path: str | Path) -> Run:
    """Open a run folder: the one place that says what a run is.

    Args:
        path: the run folder.

    Raises:
        KitError: not a run, or settings that cannot be read.
    """
    folder = Path(path).expanduser()
    if not (folder / "config.yaml").exists():
        hint = whole_model_hint(folder)
        raise KitError(f"{folder} is not a run: there is no config.yaml in it.{hint}")
    return Run(folder, load_config(folder / "config.yaml"))


def load_run(run: str | Path, machine: Machine | None = None) -> tuple[Model, Tokenizer]:
    """Open a run and load it, see `Run.load`.

    Args:
        run: the run folder.
        machine: defaults to this one.
    """
    return open_run(run).load(machine)


def as_base(model: Any) -> AbstractContextManager[Any]:
    """Inside, the model answers without its adapter.

    Args:
        model: from `load_run`.

    Raises:
        KitError: all weights were trained, so there is no base in it.
    """
    if not hasattr(model, "disable_adapter"):
        raise KitError(
            "All weights of this run were trained, so the base is not in it to compare with; use "
            "generate and score_answers on each of the two models."
        )
    return model.disable_adapter()


def require_trained(model: Any, where: str | Path, all_layers: bool = False) -> None:
    """Refuse an adapter whose B are zero as they began, so that it changes nothing (qlora#38).

    Args:
        model: a PEFT model.
        where: named in the error.
        all_layers: refuse it for a single such B, too: a training moves them all, while an
            adapter from elsewhere may leave out layers.

    Raises:
        KitError: it is empty, or a part of it did not train.
    """
    B = [
        p for name, p in model.named_parameters() if "lora_B" in name or "lora_embedding_B" in name
    ]
    zeros = sum(not p.detach().any() for p in B)
    if all_layers and zeros:
        raise KitError(f"The adapter in {where} did not train: {zeros} of its B are zero.")
    if zeros == len(B):
        raise KitError(
            f"The adapter in {where} is empty: its B are zero, so it changes nothing. Train it "
            "again; if it was trained, the wrong folder was saved or loaded."
        )


def _record(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none: an adapter from elsewhere has no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
