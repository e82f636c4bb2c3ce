"""Adapters from strangers, looked at before anything is built from them."""

import json
import math
import re
from pathlib import Path
from typing import Any

from .. import KitError
from ..models import Tensor, read_header

_MOST_RANK = 4096
_HUGE = 1e4  # no adapter that answers has such weights; one of them drowns all others
_FULL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,300}")
_PART = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.-]{1,300}?)\."
    r"(lora_(?P<side>A|B|embedding_A|embedding_B|magnitude_vector)(\.weight|\.bias)?|weight|bias)"
)
# Settings that would import a module by its name, or copy layers, at the moment of loading.
_REFUSED = ("megatron_config", "layer_replication")


def require_safe_adapter(folder: Path) -> None:
    """Refuse an adapter that is damaged, absurd, or would do more than add to named layers.

    Only safetensors are read, so nothing is ever unpickled.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.

    Raises:
        KitError: what is wrong with it.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("its adapter_config.json is no JSON object")
        ranks = _checked_config(config)
        tensors = read_header(folder / "adapter_model.safetensors")
        _check_shapes(tensors, config, ranks)
        _check_values(folder / "adapter_model.safetensors")
    except (KitError, OSError, ValueError, RecursionError) as problem:
        reason = str(getattr(problem, "strerror", None) or problem).rstrip(".")
        raise KitError(
            f"The adapter in {folder} cannot be loaded: {reason}. Get it again from where it came, "
            "or train it again."
        ) from problem


def _checked_config(config: dict[str, Any]) -> set[int]:
    """The ranks that the adapter may have; ValueError names what is not sane."""
    if config.get("peft_type") != "LORA":
        raise ValueError(f"it is {_shown(config.get('peft_type'))}, and only LORA is known here")
    for name in _REFUSED:
        if config.get(name):
            raise ValueError(f"its config sets {name}, which is not loaded from strangers")
    rank, patterns = config.get("r"), config.get("rank_pattern") or {}
    scales = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not isinstance(scales, dict):
        raise ValueError("its rank_pattern or alpha_pattern is no mapping")
    ranks = [rank, *patterns.values()]
    if not all(type(each) is int and 1 <= each <= _MOST_RANK for each in ranks):
        raise ValueError(f"its rank is no whole number from 1 to {_MOST_RANK}")
    for scale in (config.get("lora_alpha"), *scales.values()):
        if type(scale) not in (int, float) or not 0 < scale <= _HUGE:
            raise ValueError(f"its lora_alpha is {_shown(scale)}")
    dropout = config.get("lora_dropout", 0.0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(f"its lora_dropout is {_shown(dropout)}")
    targets, whole = config.get("target_modules"), config.get("modules_to_save") or []
    if targets != "all-linear" and not _names(targets):  # other texts are patterns, and may hang
        raise ValueError("its target_modules are not a list of layer names")
    if not (whole == [] or _names(whole)) or not _names([*patterns, *scales, "-"]):
        raise ValueError("its modules_to_save or patterns are not layer names")
    return set(ranks)


def _names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(name, str) and _FULL_NAME.fullmatch(name) for name in value)
    )


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else "no plain value"
    return text if len(text) <= 40 else text[:40] + "..."


def _check_shapes(tensors: list[Tensor], config: dict[str, Any], ranks: set[int]) -> None:
    if not tensors:
        raise ValueError("it holds no weights")
    sides: dict[str, set[str]] = {}
    for tensor in tensors:
        match = _PART.fullmatch(tensor.name)
        if match is None:
            raise ValueError(f"{_shown(tensor.name)} is no part of an adapter")
        module, side = match["module"], match["side"]
        targets = config["target_modules"]
        allowed = [*(targets if isinstance(targets, list) else []),
                   *(config.get("modules_to_save") or [])]  # fmt: skip
        if targets != "all-linear" and not any(
            module == name or module.endswith(f".{name}") for name in allowed
        ):
            raise ValueError(f"{_shown(module)} is not among its target_modules")
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise ValueError(f"{_shown(tensor.name)} is of the type {tensor.dtype}")
        if side in ("A", "B") and not tensor.name.endswith(".bias"):
            sides.setdefault(module, set()).add(side)
            rank = tensor.shape[0 if side == "A" else 1] if len(tensor.shape) >= 2 else 0
            if rank not in ranks:
                raise ValueError(f"{_shown(tensor.name)} has the shape {list(tensor.shape)[:4]}, "
                                 f"which is not of rank {config['r']}")  # fmt: skip
    lonely = [module for module, found in sides.items() if found != {"A", "B"}]
    if lonely:
        raise ValueError(f"{_shown(lonely[0])} has only one of A and B")


def _check_values(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                peak = float(file.get_tensor(name).abs().max())
                if not math.isfinite(peak):
                    raise ValueError(f"{_shown(name)} has weights that are no numbers")
                if peak > _HUGE:
                    raise ValueError(f"{_shown(name)} has a weight of {peak:.0g}")
    except (SafetensorError, RuntimeError) as problem:
        raise ValueError(str(problem)) from problem
