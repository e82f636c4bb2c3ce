"""The configuration of a training run, from keywords, the command line or YAML."""

import dataclasses
import functools
import inspect
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from .. import KitError
from ..models import Precision

# Peak learning rates for adapters by the parameters of the model, from small to large. For the
# three in the middle: 5e-4 (2000 / width)^0.78, which Thinking Machines fitted to Llama and Qwen
# ("LoRA Without Regret", 2025), at widths of 1,024, 2,048 and 3,072. The last two are QLoRA's
# (arXiv 2305.14314, table 9). The first is measured by lesson 05 on the bundled model.
LEARNING_RATES = (
    (0.3e9, 2e-3),
    (1e9, 8e-4),
    (2.5e9, 5e-4),
    (6e9, 3.5e-4),
    (25e9, 2e-4),
    (float("inf"), 1e-4),
)
FULL_SHARE = 0.1  # of it where all weights move ("LoRA Without Regret": adapters bear ten times)
FAR_ABOVE = 5.0  # times the default: a rate to ask about


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run; config.yaml in the run folder holds it.

    Attributes:
        data: A file of conversations (.jsonl, .json, .csv, .tsv, .parquet). See `data.read`.
        output: The run folder to write.
        model: Bundled name, Hub id, folder or .gguf file.
        precision: Of the frozen weights: nf4, fp4 (4 bits, double quantization), int8, 16bit,
            32bit. NF4 is what QLoRA proposes (arXiv 2305.14314, section 3).
        epochs: Passes over the data.
        max_steps: Optimizer steps; counts instead of epochs.
        batch_size: Conversations per optimizer step, in micro-batches of token_budget tokens.
            QLoRA's is 16 (table 9); 8 makes more steps of few rows.
        token_budget: Tokens at once; bounds memory and changes no result.
        max_length: Tokens kept of a conversation.
        low_memory: On a CPU, hold no dequantized weights and work on few tokens at once: the same
            run in less memory, at less than half the speed.
        packing: Put a micro-batch's conversations into one row instead of padding them.
        group_by_length: Give a step conversations of like length.
        method: lora trains adapters on frozen weights, full all weights (precision 32bit).
        adapter: A run folder whose adapter is trained further; its rank and layers count.
        learning_rate: Peak of the schedule; without one it follows the model's size, from 2e-3
            for 135M parameters to 1e-4 for 70B. See `default_learning_rate`.
        schedule: linear (down to 0) or constant, after warmup. QLoRA's is constant.
        warmup: Share of the steps in which the rate rises from 0. QLoRA's is 0.03.
        rank: Of the adapters. QLoRA's is 64, and finds that it hardly matters (appendix A).
        alpha: Scales the adapters' part by alpha / rank. LoRA, arXiv 2106.09685, section 4.1.
        target_modules: Layers with adapters: all-linear, or names such as q_proj,v_proj. QLoRA
            finds that all are needed to reach full fine-tuning (figure 2).
        dropout: Share of an adapter's inputs set to 0 in training. QLoRA: 0.1 up to 13B, then
            0.05; a few hundred rows in few passes do without.
        weight_decay: AdamW's, a step. QLoRA uses none.
        beta2: AdamW's memory of squared gradients. QLoRA's is 0.999; with a hundred steps 0.98
            has seen enough (chosen by hand).
        max_grad_norm: Gradients are cut to this norm; 0 cuts none. QLoRA's is 0.3; 1 is
            transformers' default.
        seed: Of everything random.
        save_steps: Steps between checkpoints; without it only Ctrl-C leaves one.
        prompt_field: Column of the question.
        completion_field: Column of the answer.
        report_to: none, tensorboard or trackio. None of them asks for a login.
        compute_dtype: Of the products: float32, bfloat16, float16; without it what this machine
            is fast in.
    """

    data: str
    output: str
    model: str = "smollm2"
    precision: Precision = "nf4"
    epochs: Annotated[float, Gt(0)] = 3.0
    max_steps: Annotated[int, Ge(1)] | None = None
    batch_size: Annotated[int, Gt(0)] = 8
    token_budget: Annotated[int, Gt(0)] = 512
    max_length: Annotated[int, Gt(0)] = 512
    low_memory: bool = False
    packing: bool = False
    group_by_length: bool = False
    method: Literal["lora", "full"] = "lora"
    adapter: str | None = None
    learning_rate: Annotated[float, Gt(0)] | None = None
    schedule: Literal["linear", "constant"] = "linear"
    warmup: Annotated[float, Ge(0), Le(1)] = 0.05
    rank: Annotated[int, Gt(0)] = 16
    alpha: Annotated[int, Gt(0)] = 32
    target_modules: str = "all-linear"
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.98
    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    save_steps: Annotated[int, Ge(1)] | None = None
    prompt_field: str | None = None
    completion_field: str | None = None
    report_to: Literal["none", "tensorboard", "trackio"] = "none"
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None

    def __post_init__(self) -> None:
        for name, value in _checked(vars(self)).items():
            object.__setattr__(self, name, value)  # "2e-4", YAML's text, is a number from here on
        if self.method == "full" and self.precision != "32bit":
            raise KitError(
                f"method 'full' trains the weights themselves, which takes precision '32bit', not "
                f"{self.precision!r}: 4-bit weights cannot move."
            )


def describe_fields(settings: type) -> dict[str, str]:
    """What each field of a dataclass means, by name, from its docstring's "Attributes".

    Args:
        settings: the dataclass.
    """
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", inspect.getdoc(settings) or "", re.M)
    return {name: " ".join(text.split()) for name, text in entries}


def default_learning_rate(parameters: float, method: str = "lora") -> float:
    """The peak learning rate that suits a model of this size, from `LEARNING_RATES`.

    Args:
        parameters: of the whole base model.
        method: "lora" or "full".

    Example:
        >>> default_learning_rate(7_600_000_000)
        0.0002
    """
    rate = next(rate for limit, rate in LEARNING_RATES if parameters <= limit)
    return rate if method == "lora" else rate * FULL_SHARE


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

    Raises:
        KitError: fields that are missing, unknown or of a wrong type.
    """
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    unknown = sorted(set(values) - set(names), key=str)
    if unknown:
        listed = ", ".join(str(name)[:60] for name in unknown)
        raise KitError(f"{where}: unknown {listed}. Known: {', '.join(names)}.")
    missing = [name for name in ("data", "output") if name not in values]
    if missing:
        raise KitError(f"{where}: {' and '.join(missing)} missing.")
    try:
        return TrainConfig(**values)
    except KitError as problem:
        raise KitError(f"{where}: {problem}") from problem


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values with their types; all that are wrong are named in one error."""
    from pydantic import ValidationError

    try:
        return dict(_schema()(**values))
    except ValidationError as problem:
        wrong = [
            f"{error['loc'][0]} {error['msg'].replace('Input should', 'must')}, "
            f"not {reprlib.repr(error['input'])}"
            for error in problem.errors()
        ]
        raise KitError(f"{'; '.join(wrong)}.") from None


@functools.cache
def _schema() -> Any:
    """`TrainConfig` for pydantic, which is too slow to load for `qlora-kit --help`."""
    from pydantic import BeforeValidator, ConfigDict, create_model

    hints = get_type_hints(TrainConfig, include_extras=True)
    fields: dict[str, Any] = dict(hints)
    for kind in (float, int):
        read = BeforeValidator(functools.partial(_number, kind))
        of_kind = {name: hint for name, hint in hints.items() if _is_of(kind, hint)}
        fields |= {name: Annotated[hint, read] for name, hint in of_kind.items()}
    settings = ConfigDict(strict=True, allow_inf_nan=False)
    return create_model("TrainConfig", __config__=settings, **fields)


def _is_of(kind: type, hint: Any) -> bool:
    return hint is kind or any(_is_of(kind, part) for part in get_args(hint))


def _number(kind: type, value: Any) -> Any:
    """A text that is a number, as which YAML takes 2e-4, and a whole number written as 16.0."""
    try:
        number = float(value) if isinstance(value, str | float) else None
    except ValueError:
        return value
    if number is None or (kind is int and not number.is_integer()):
        return value
    return kind(number)
