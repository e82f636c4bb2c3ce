"""A run opened: its base model with its adapter on, and what it was trained on."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import Machine
from ..models import Model, Tokenizer, load
from . import manifest
from .adapters import load_adapter
from .config import TrainConfig, load_config


def load_run(run: str | Path, machine: Machine | None = None) -> tuple[Model, Tokenizer]:
    """Load a run's base model with its adapter on; of a full fine-tuning, the model itself.

    Args:
        run: the run folder.
        machine: defaults to this one.

    Returns:
        (model in eval mode, tokenizer); a PEFT model unless all weights were trained.

    Raises:
        KitError: not a run folder, an adapter that does not fit, or a base that is not the one it
            was trained on, see `manifest.require_match`.
    """
    folder = Path(run).expanduser()
    whole = (folder / "model.safetensors").exists()
    results = ("model.safetensors",) if whole else ("adapter_config.json",)
    for name in ("config.yaml", *results):
        if not (folder / name).exists():
            raise KitError(f"{folder} is not a finished run: there is no {name} in it.")
    config = load_config(folder / "config.yaml")
    if whole:
        manifest.require_match(folder)
        model, tokenizer = load(str(folder), config.precision, machine)
        return model.eval(), tokenizer
    model, tokenizer = load(config.model, config.precision, machine)
    manifest.require_match(folder)  # now that a base from the Hub is here
    return load_adapter(model, folder), tokenizer


def trained_system(run: Path) -> str | None:
    """The system prompt that a run was trained with, when its first conversation had one.

    Args:
        run: the run folder.
    """
    try:
        return json.loads((run / "run.json").read_text(encoding="utf-8")).get("system")
    except (OSError, ValueError):  # an adapter from elsewhere has no such file
        return None


def manifest_of(run: Path) -> manifest.Manifest | None:
    """A run's manifest; None when it has none, as runs of earlier versions.

    Args:
        run: the run folder.
    """
    return manifest.read(run)


def as_base(model: Model) -> AbstractContextManager[Any]:
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


def adapted_run(run: str | Path) -> tuple[Path, TrainConfig]:
    """The folder and configuration of a run that left an adapter.

    Args:
        run: the run folder.

    Raises:
        KitError: not a run, or one that trained all weights.
    """
    folder = Path(run).expanduser()
    for name in ("config.yaml", "adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).exists():
            whole = (folder / "model.safetensors").exists()
            hint = " All weights were trained: it is a whole model already." if whole else ""
            raise KitError(f"{folder} holds no trained adapter: there is no {name} in it.{hint}")
    return folder, load_config(folder / "config.yaml")


def require_trained(model: Model, where: str | Path) -> None:
    """Refuse an adapter that changes nothing, because all of its B are zero.

    Args:
        model: a PEFT model.
        where: named in the error.

    Raises:
        KitError: no B, or B that are zero throughout (qlora#38).
    """
    trained = [
        p for name, p in model.named_parameters() if "lora_B" in name or "lora_embedding_B" in name
    ]
    if not any(p.detach().any() for p in trained):
        raise KitError(
            f"The adapter in {where} is empty: its B are zero, so it changes nothing. Train it "
            "again; if it was trained, the wrong folder was saved or loaded."
        )
