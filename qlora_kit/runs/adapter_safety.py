"""Adapters from strangers, looked at before anything is built from them."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from .. import KitError
from ..models import Tensor, read_header

# Chosen by hand: no adapter that answers has such weights; one of them drowns all others.
_HUGE = 1e4
_NAME = r"[A-Za-z0-9_.-]{1,300}"
_PART = re.compile(
    rf"base_model\.model\.(?P<module>{_NAME}?)\."
    r"(lora_(?P<side>A|B|embedding_A|embedding_B|magnitude_vector)(\.weight|\.bias)?|weight|bias)"
)
_Name = Annotated[str, Field(pattern=f"^{_NAME}$")]
_Rank = Annotated[int, Field(strict=True, ge=1, le=4096)]  # chosen by hand: a layer's width
_Alpha = Annotated[float, Field(strict=True, gt=0, le=_HUGE)]


def _require_empty(value: Any) -> None:
    if value:
        raise ValueError("Input should be empty")


class _AdapterConfig(BaseModel):
    """The settings of adapter_config.json that decide what is loaded."""

    peft_type: Literal["LORA"]
    r: _Rank
    lora_alpha: _Alpha
    lora_dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    # Other texts than "all-linear" are patterns, and a pattern may hang.
    target_modules: Literal["all-linear"] | Annotated[list[_Name], Field(min_length=1)]
    modules_to_save: list[_Name] | None = None
    rank_pattern: dict[_Name, _Rank] | None = None
    alpha_pattern: dict[_Name, _Alpha] | None = None
    # These would import a module by its name, or copy layers, at the moment of loading.
    megatron_config: Annotated[Any, BeforeValidator(_require_empty)] = None
    layer_replication: Annotated[Any, BeforeValidator(_require_empty)] = None


def require_safe_adapter(folder: Path) -> None:
    """Refuse an adapter that is damaged, absurd, or would do more than add to named layers.

    Only safetensors are read, so nothing is ever unpickled.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.

    Raises:
        KitError: what is wrong with it.
    """
    weights = folder / "adapter_model.safetensors"
    try:
        config = _read_config(folder / "adapter_config.json")
        _check_tensors(read_header(weights), config)
        _check_values(weights)
    except (KitError, OSError, ValueError) as problem:
        reason = str(getattr(problem, "strerror", None) or problem).rstrip(".")
        raise KitError(
            f"The adapter in {folder} cannot be loaded: {reason}. Get it again from where it came, "
            "or train it again."
        ) from problem


def _read_config(path: Path) -> _AdapterConfig:
    try:
        return _AdapterConfig.model_validate_json(path.read_bytes())
    except ValidationError as problem:
        error = problem.errors(include_url=False)[0]
        name = error["loc"][0] if error["loc"] else path.name
        raise ValueError(f"its {name} is {_shown(error['input'])}: {error['msg']}") from problem


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | bool | None) else "no plain value"
    return text if len(text) <= 40 else text[:40] + "..."


def _check_tensors(tensors: list[Tensor], config: _AdapterConfig) -> None:
    """Each tensor is a part of one of the layers' adapters, and none lacks its other half."""
    if not tensors:
        raise ValueError("it holds no weights")
    everywhere = config.target_modules == "all-linear"
    layers = [*config.target_modules, *(config.modules_to_save or [])]
    ranks = {config.r, *(config.rank_pattern or {}).values()}
    sides: dict[str, set[str]] = {"A": set(), "B": set()}
    for tensor in tensors:
        match = _PART.fullmatch(tensor.name)
        if match is None:
            raise ValueError(f"{_shown(tensor.name)} is no part of an adapter")
        module, side = match["module"], match["side"]
        # PEFT takes a layer whose path is, or ends in, one of the names.
        is_named = any(f".{module}".endswith(f".{layer}") for layer in layers)
        if not everywhere and not is_named:
            raise ValueError(f"{_shown(module)} is not among its target_modules")
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise ValueError(f"{_shown(tensor.name)} is of the type {tensor.dtype}")
        if side in sides and not tensor.name.endswith(".bias"):
            sides[side].add(module)
            if len(tensor.shape) < 2 or tensor.shape[side == "B"] not in ranks:
                shape = list(tensor.shape[:4])
                raise ValueError(
                    f"{_shown(tensor.name)} has the shape {shape}, which is not of rank {config.r}"
                )
    lonely = sorted(sides["A"] ^ sides["B"])
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
