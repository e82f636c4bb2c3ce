"""An adapter folded into its base: W + scale B A, as dense weights that need no PEFT.

Which W? The adapter was trained against the 4-bit weights and makes up for their rounding, so
the default is those, dequantized. The original 16-bit weights are a choice. What is never done
in silence is to round the sum to 4 bits again: most of what was learned is smaller than a step.
"""

from pathlib import Path
from typing import Any

import torch

from .. import KitError
from ..machine import exact_machine
from ..models import Model, Tokenizer, load, quiet
from ..runs import Run, TrainConfig, open_run, require_adapter, require_trained

BASES = ("dequantized", "original")


def merge(run: str | Path, into: str = "dequantized") -> tuple[Model, Tokenizer]:
    """A run's adapter merged into dense fp32 weights.

    Args:
        run: the run folder.
        into: "dequantized", the weights that it was trained against, or "original", the weights
            that the base has without quantization.

    Returns:
        (a plain transformers model in eval mode, tokenizer).

    Raises:
        KitError: no adapter, an empty one, an unknown base, or a run that is not what was trained.
    """
    opened = open_run(run)
    require_mergeable(opened, into)
    tuned, tokenizer = opened.load(exact_machine())
    require_trained(tuned, opened.folder)
    return merge_adapter(tuned, opened.config, into), tokenizer


def require_mergeable(run: Run, into: str) -> None:
    """Refuse, before anything is loaded, what `merge_adapter` and `dense_base` cannot do.

    Args:
        run: the run.
        into: see `merge`.

    Raises:
        KitError: an unknown base, no adapter, or weights that were in int8, which have no exact
            dense form here.
    """
    if into not in BASES:
        raise KitError(f"An adapter merges into one of {', '.join(BASES)}, not {into!r}.")
    require_adapter(run.folder)
    if into == "dequantized" and run.config.precision == "int8":
        raise KitError(
            "The run was trained on int8 weights, whose products are rounded too: no dense "
            "weights equal them. Merge into the original ones (--into original)."
        )


def merge_adapter(tuned: Any, config: TrainConfig, into: str) -> Any:
    """A loaded adapter merged into dense fp32 weights.

    Args:
        tuned: a PEFT model of the run, not to be used afterwards: its base becomes the result.
        config: of the run.
        into: see `merge`.

    Source: LoRA (arXiv 2106.09685), equation 3; PEFT's `merge_and_unload` on dense weights.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    lora = tuned.peft_config[tuned.active_adapter]
    with quiet():
        weights = get_peft_model_state_dict(tuned)
        dense = get_peft_model(dense_base(tuned, config, into), lora)
        set_peft_model_state_dict(dense, weights)
        return dense.merge_and_unload(safe_merge=True).eval()


def dense_base(tuned: Any, config: TrainConfig, into: str) -> Any:
    """A run's base without its adapter, as dense fp32 weights.

    Args:
        tuned: a PEFT model of the run, not to be used afterwards.
        config: of the run.
        into: see `merge`.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    if into == "original" and config.precision != "32bit":
        return load(config.model, "32bit", exact_machine())[0]
    base = tuned.unload()
    if config.precision in ("nf4", "fp4"):
        with quiet():
            base = base.dequantize(torch.float32)
        # Those of a 4-bit file, which it may have come from, would be undone when it is saved.
        base._weight_conversions = get_model_conversion_mapping(base, add_legacy=False)
    return base.float()
