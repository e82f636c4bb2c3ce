"""Trained adapters on a frozen model, one or several side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import KitError
from ..models import Model, quiet
from .adapter_safety import require_safe_adapter

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def load_adapter(model: Model, folder: str | Path, trainable: bool = False) -> Any:
    """Put a trained adapter on a model.

    Args:
        model: from `models.load`.
        folder: a run folder, or any folder in PEFT's format.
        trainable: to train it further.

    Returns:
        A PEFT model.

    Raises:
        KitError: no adapter there, or one that does not fit.
    """
    return load_adapters(model, {"default": folder}, trainable)


def load_adapters(model: Model, folders: Mapping[str, str | Path], trainable: bool = False) -> Any:
    """Put several trained adapters on one frozen model; the first is active.

    `model.set_adapter(name)` switches; the base is in memory once.

    Args:
        model: from `models.load`.
        folders: run folders by name.
        trainable: to train them further.

    Returns:
        A PEFT model, in eval mode unless trainable.

    Raises:
        KitError: no folders, or an adapter that does not fit.
    """
    from peft import PeftModel

    if not folders:
        raise KitError("There is no adapter to load.")
    tuned: Any = None
    for name, folder in folders.items():
        folder = Path(folder).expanduser()
        require_adapter(folder)
        require_safe_adapter(folder)
        try:
            with quiet():
                if tuned is None:
                    tuned = PeftModel.from_pretrained(
                        model, folder, adapter_name=name, is_trainable=trainable
                    )
                else:
                    tuned.load_adapter(folder, adapter_name=name, is_trainable=trainable)
        except Exception as problem:
            raise KitError(f"The adapter in {folder} cannot be loaded: {problem}") from problem
        # Saved again, PEFT would ask the Hub for the base that a stranger's file names.
        tuned.peft_config[name].base_model_name_or_path = model.config.name_or_path
    if len(folders) > 1:
        tuned.set_adapter(next(iter(folders)))
    return tuned if trainable else tuned.eval()


def require_adapter(folder: Path) -> None:
    """Refuse a folder without an adapter in it.

    Args:
        folder: a run folder, or any folder in PEFT's format.

    Raises:
        KitError: no adapter; all weights may have been trained.
    """
    for name in _FILES:
        if not (folder / name).exists():
            hint = whole_model_hint(folder)
            raise KitError(f"{folder} holds no trained adapter: there is no {name} in it.{hint}")


def whole_model_hint(folder: Path) -> str:
    """A sentence to add where a folder without an adapter holds a whole model; else "".

    Args:
        folder: without an adapter.
    """
    whole = (folder / "model.safetensors").exists()
    return " All weights are in it: it is a whole model already." if whole else ""


def adapter_bytes(folder: str | Path) -> int:
    """What an adapter takes on the disk.

    Args:
        folder: a run folder.
    """
    return (Path(folder).expanduser() / "adapter_model.safetensors").stat().st_size
