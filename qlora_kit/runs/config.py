"""The configuration of a training run, from keywords, the command line or YAML."""

import dataclasses
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..models import PRECISIONS

_CHOICES = {
    "precision": PRECISIONS,
    "method": ("lora", "full"),
    "schedule": ("linear", "constant"),
    "report_to": ("none", "tensorboard", "trackio"),
    "compute_dtype": (None, "float32", "bfloat16", "float16"),
}
_ANY = 1e308  # finite


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run; config.yaml in the run folder holds it.

    data: a file of conversations, see `data.read`.   output: the run folder to write.
    epochs: passes over the data; max_steps, when given, counts instead.
    batch_size: conversations per optimizer step, in micro-batches of token_budget tokens.
    low_memory: on a CPU, hold no dequantized weights and work on few tokens at once: the same run
        in less memory, at less than half the speed.
    packing: put a micro-batch's conversations into one row instead of padding them.
    group_by_length: give a step conversations of like length.
    method: "lora" trains adapters on frozen weights, "full" all weights (precision 32bit).
    adapter: a run folder whose adapter is trained further; its rank and layers count.
    rank, alpha: of the adapters; their part is scaled by alpha / rank.
    target_modules: the layers with adapters: "all-linear", or names such as "q_proj,v_proj".
    schedule: "linear" or "constant", after warmup (a share of the steps).
    save_steps: steps between checkpoints; None saves none but on Ctrl-C.
    report_to: "none", "tensorboard" or "trackio". None of them asks for a login.
    """

    data: str
    output: str
    model: str = "smollm2"
    precision: str = "nf4"
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 8
    token_budget: int = 512
    max_length: int = 512
    low_memory: bool = False
    packing: bool = False
    group_by_length: bool = False
    method: str = "lora"
    adapter: str | None = None
    learning_rate: float = 2e-3
    schedule: str = "linear"
    warmup: float = 0.05
    rank: int = 16
    alpha: int = 32
    target_modules: str = "all-linear"
    dropout: float = 0.0
    weight_decay: float = 0.0
    beta2: float = 0.98
    max_grad_norm: float = 1.0
    seed: int = 0
    save_steps: int | None = None
    prompt_field: str | None = None
    completion_field: str | None = None
    report_to: str = "none"
    compute_dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "token_budget", "max_length", "rank", "alpha", "epochs",
                     "learning_rate"):  # fmt: skip
            if not 0 < getattr(self, name) < float("inf"):  # also refuses NaN
                raise KitError(f"{name} must be above 0, not {getattr(self, name)}.")
        for name, most in (("warmup", 1.0), ("beta2", 1 - 1e-9), ("weight_decay", _ANY),
                           ("max_grad_norm", _ANY), ("seed", 2**32 - 1)):  # fmt: skip
            if not 0 <= getattr(self, name) <= most:
                limit = f"from 0 to {most:g}" if most < _ANY else "0 or more"
                raise KitError(f"{name} must be {limit}, not {getattr(self, name)}.")
        for name in ("max_steps", "save_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise KitError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.method == "full" and self.precision != "32bit":
            raise KitError(
                f"method 'full' trains the weights themselves, which takes precision '32bit', not "
                f"{self.precision!r}: 4-bit weights cannot move."
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                named = ", ".join(str(choice) for choice in known if choice)
                raise KitError(f"{name} must be one of {named}, not {getattr(self, name)!r}.")
        if not 0 <= self.dropout < 1:
            raise KitError(f"dropout must be from 0 to below 1, not {self.dropout}.")


def load_config(file: str | Path, **changes: Any) -> TrainConfig:
    """Read a TrainConfig from YAML, as a run folder's config.yaml.

    Args:
        file: the YAML file.
        changes: fields to set differently; None means unchanged.

    Raises:
        KitError: not YAML, or fields that are missing, unknown or of a wrong type.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    # A date such as 2020-13-45 is a ValueError, deep nesting a RecursionError.
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError) as problem:
        raise KitError(f"{file} cannot be read as YAML: {problem}") from problem
    if not isinstance(values, dict):
        raise KitError(f"{file} must hold 'name: value' lines.")
    values.update({name: value for name, value in changes.items() if value is not None})
    return make_config(values, str(file))


def make_config(values: dict[str, Any], where: str = "the configuration") -> TrainConfig:
    """A TrainConfig from names and values, each checked.

    Args:
        values: the fields by name.
        where: named in the errors.
    """
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    unknown = sorted(set(values) - set(fields), key=str)
    if unknown:
        named = ", ".join(str(name)[:60] for name in unknown)
        raise KitError(f"{where}: unknown {named}. Known: {', '.join(fields)}.")
    missing = [name for name in ("data", "output") if name not in values]
    if missing:
        raise KitError(f"{where}: {' and '.join(missing)} missing.")
    return TrainConfig(**{name: _typed(fields[name], v, where) for name, v in values.items()})


def _typed(field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    wanted = str(field.type if isinstance(field.type, str) else
                 getattr(field.type, "__name__", field.type))  # fmt: skip
    if value is None and "None" in wanted:
        return None
    kind = next(k for k in (bool, float, int, str) if k.__name__ in wanted)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    try:
        if (
            isinstance(value, bool)
            or kind in (str, bool)
            or (kind is int and int(value) != float(value))
        ):
            raise ValueError
        return kind(value)
    except (OverflowError, TypeError, ValueError):
        raise KitError(
            f"{where}: {field.name} must be {wanted}, not {reprlib.repr(value)}."
        ) from None
