"""Whether GGUF files can be served together: the headers are compared before any is loaded.

llama.cpp's own words for a wrong file are a line in its log; here they are a sentence with the
way out.
"""

from pathlib import Path

from .. import KitError
from ..models import GgufHeader, read_gguf_header


def read_gguf_model(path: str | Path) -> GgufHeader:
    """The header of a file that is to be served; the weights are not touched.

    Args:
        path: a GGUF model.

    Raises:
        KitError: see `read_gguf_header`; or an adapter, which is no model by itself.
    """
    header = read_gguf_header(path, sizes=False)
    kind = _kind(header)
    if kind == "lora":
        raise KitError(
            f"{header.path} is a LoRA adapter, not a model. Serve the model that it was trained "
            f"on, with --lora NAME={header.path.name}."
        )
    if kind != "model":
        raise KitError(f"{header.path} holds no model: its type is {kind!r}.")
    return header


def require_adapter(path: str | Path, base: GgufHeader) -> None:
    """Check from its header that an adapter fits the model.

    Args:
        path: a GGUF LoRA adapter.
        base: the model's header.

    Raises:
        KitError: see `read_gguf_header`; not a LoRA adapter, or one of another model.
    """
    header = read_gguf_header(path, sizes=False)
    kind = _kind(header)
    if kind != "lora":
        raise KitError(
            f"{header.path} is not a LoRA adapter but holds a {kind}. Export the adapter of "
            "a run by itself, or serve this file as the model."
        )
    misfit = _misfit(header, base)
    if misfit:
        raise KitError(
            f"The adapter {header.path} does not fit {base.path}: {misfit}. It was trained on "
            "another model; serve that one."
        )


def _kind(header: GgufHeader) -> str:
    """ "model", or "lora" of an adapter; another word is something that is not served."""
    kind = str(header.metadata.get("general.type", "model"))
    return str(header.metadata.get("adapter.type", kind)) if kind == "adapter" else kind


def _misfit(adapter: GgufHeader, base: GgufHeader) -> str:
    """The first thing that differs; "" when all fits."""
    if adapter.architecture != base.architecture:
        return f"it is for a {adapter.architecture!r} model, this is {base.architecture!r}"
    halves, targets = adapter.shapes, base.shapes
    names = {name.rpartition(".lora_")[0] for name in halves if ".lora_" in name}
    if not names:
        return "there are no lora_a and lora_b tensors in it"
    if base.metadata.get("split.count", 1) not in (0, 1):
        return ""  # the other tensors are in other files; llama.cpp compares them
    for name in sorted(names):
        down, up = halves.get(f"{name}.lora_a"), halves.get(f"{name}.lora_b")
        target = targets.get(name)
        if down is None or up is None:
            return f"of {name} it has only one of lora_a and lora_b"
        if target is None:
            return f"the model has no {name}"
        looked_up = name.startswith("token_embd")  # not multiplied, so its halves lie transposed
        product = (up[1], down[1]) if looked_up else (down[0], up[1])
        if product != target[:2]:
            return f"{name} is {_size(target)}, the adapter's {_size(product)}"
    return ""


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
