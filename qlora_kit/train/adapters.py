"""The adapters that a training begins with: fresh ones, or those of another run."""

from typing import Any

from .. import KitError
from ..runs import TrainConfig, load_adapter, require_match


def attach_adapters(model: Any, config: TrainConfig) -> Any:
    """Freeze a model and put a LoRA adapter on each of its target layers.

    Args:
        model: from `models.load`.
        config: its rank, alpha, dropout and target_modules are used; with `adapter`, that run's
            adapter is loaded instead, to be trained further.

    Returns:
        A PEFT model whose adapters are in fp32.

    Raises:
        KitError: no layer has one of the names, or the adapter cannot be loaded.
    """
    from peft import LoraConfig, get_peft_model

    if config.adapter:
        require_match(config.adapter, config.model)
        return load_adapter(model, config.adapter, trainable=True)
    targets: str | list[str] = config.target_modules
    if config.target_modules != "all-linear":
        targets = [name.strip() for name in config.target_modules.split(",")]
        known = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
        missing = [name for name in targets if name not in known]
        if missing:
            raise KitError(
                f"The model has no layers named {', '.join(missing)}. 'all-linear' takes all."
            )
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
                      target_modules=targets, task_type="CAUSAL_LM")  # fmt: skip
    return get_peft_model(model, lora)
