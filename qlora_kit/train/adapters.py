"""The adapters that a training begins with: fresh ones, or those of another run."""

from pathlib import Path
from typing import Any

from .. import KitError
from ..models import Model, quiet
from ..runs import TrainConfig, load_adapter, require_match


def attach_adapters(model: Model, config: TrainConfig) -> Any:
    """Freeze a model and put a LoRA adapter on each of its target layers.

    Args:
        model: from `models.load`.
        config: its rank, alpha, dropout and target_modules are used; with `adapter`, that run's
            adapter is loaded instead, to be trained further.

    Returns:
        A PEFT model whose adapters are in fp32.

    Raises:
        KitError: a name that no linear layer has, layers that PEFT cannot adapt, or an adapter
            that cannot be loaded.
    """
    from peft import LoraConfig, get_peft_model

    if config.adapter:
        adapter = Path(config.adapter).expanduser()
        require_match(adapter, config.model)
        with quiet():
            return load_adapter(model, adapter, trainable=True)
    targets: str | list[str] = config.target_modules
    if config.target_modules != "all-linear":
        targets = [name.strip() for name in config.target_modules.split(",")]
        _require_linear_layers(model, targets)
    try:
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        with quiet():
            return get_peft_model(model, lora)
    except (KeyError, NotImplementedError, TypeError, ValueError) as problem:
        raise KitError(
            f"PEFT cannot put adapters on the layers {config.target_modules!r} of "
            f"{config.model!r}: {problem} Choose others with target_modules."
        ) from problem


def _require_linear_layers(model: Model, targets: list[str]) -> None:
    """Refuse names that PEFT would leave out in silence, or find something else under."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    layers = [name for name, module in model.named_modules() if isinstance(module, Linear | Conv1D)]
    unknown = [
        target  # PEFT takes a layer whose name is, or ends in, one of the targets
        for target in targets
        if not any(f".{layer}".endswith(f".{target}") for layer in layers)
    ]
    if unknown:
        known = sorted({layer.rsplit(".", 1)[-1] for layer in layers})
        raise KitError(
            f"No linear layer of the model is named {', '.join(map(repr, unknown))}. There are: "
            f"{', '.join(known)}; 'all-linear' takes all but the model's head."
        )
