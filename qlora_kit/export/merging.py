"""An adapter folded into its base: W + scale B A, as dense weights that need no PEFT.

Which W? The adapter was trained against the 4-bit weights and makes up for their rounding, so
the default is those, dequantized. The original 16-bit weights are a choice. What is never done
in silence is to round the sum to 4 bits again: most of what was learned is smaller than a step.
"""

from pathlib import Path
from typing import Any

from .. import KitError
from ..engine import dense_weight
from ..machine import exact_machine, release_memory
from ..models import Model, Tokenizer, load, quiet
from ..runs import TrainConfig, adapted_run, load_adapter, load_run, require_match, require_trained

BASES = ("dequantized", "original")


def merge(run: str | Path, into: str = "dequantized") -> tuple[Model, Tokenizer]:
    """A run's adapter merged into dense fp32 weights.

    Args:
        run: the run folder.
        into: "dequantized", the 4-bit weights that it was trained against, or "original", the
            weights that the base has without quantization.

    Returns:
        (a plain transformers model in eval mode, tokenizer).

    Raises:
        KitError: no adapter, an empty one, an unknown base, or a run that is not what was trained.

    Source: LoRA (arXiv 2106.09685), equation 3; PEFT's `merge_and_unload` on dense weights.
    """
    if into not in BASES:
        raise KitError(f"An adapter merges into one of {', '.join(BASES)}, not {into!r}.")
    folder, config = adapted_run(run)
    model, tokenizer = load_base(config, into)
    require_match(folder)
    tuned = load_adapter(model, folder)
    require_trained(tuned, folder)
    with quiet():
        merged = tuned.merge_and_unload(safe_merge=True)
    return merged.eval(), tokenizer


def load_base(config: TrainConfig, into: str = "dequantized") -> tuple[Model, Tokenizer]:
    """A run's base without its adapter, as dense fp32 weights.

    Args:
        config: of the run.
        into: see `merge`.

    Raises:
        KitError: weights that were in int8, which have no exact dense form here.
    """
    machine = exact_machine()
    model, tokenizer = load(config.model, "32bit", machine)
    if into == "dequantized" and config.precision in ("nf4", "fp4"):
        packed, _ = load(config.model, config.precision, machine)
        dequantize_into(packed, model)
        del packed
        release_memory()
    elif into == "dequantized" and config.precision == "int8":
        raise KitError(
            "The run was trained on int8 weights, whose products are rounded too: no dense "
            "weights equal them. Merge into the original ones (--into original)."
        )
    return model, tokenizer


def dequantize_into(packed: Any, dense: Any) -> int:
    """Give a dense model the values that a 4-bit copy of it stands for.

    Args:
        packed: a bitsandbytes 4-bit model.
        dense: the same model without quantization, changed in place.

    Returns:
        How many layers took new values.
    """
    from bitsandbytes.nn import Linear4bit

    count = 0
    for name, layer in packed.named_modules():
        if isinstance(layer, Linear4bit):
            weight = dense.get_submodule(name).weight
            weight.data = dense_weight(layer, weight.dtype).to(weight.device)
            count += 1
    return count


def naive_merge(run: str | Path) -> tuple[Model, Tokenizer]:
    """The trap, to be measured: merging into a 4-bit base, which rounds the sum to 4 bits again.

    PEFT dequantizes, adds, and quantizes again, with only a warning (peft#2321). Nothing else in
    the kit uses it.

    Args:
        run: the run folder, of a run on nf4 or fp4 weights.

    Returns:
        (a 4-bit model in eval mode, tokenizer), to be read with `read_model`.

    Raises:
        KitError: no adapter, or weights that were not in 4 bits.
    """
    folder, config = adapted_run(run)
    if config.precision not in ("nf4", "fp4"):
        raise KitError(
            f"{folder} was trained on {config.precision} weights; the trap needs 4 bits."
        )
    tuned, tokenizer = load_run(folder, exact_machine())
    require_trained(tuned, folder)
    with quiet():
        merged = tuned.merge_and_unload()
    return merged.eval(), tokenizer
