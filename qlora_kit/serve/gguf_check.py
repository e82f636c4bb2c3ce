"""What the headers of GGUF files say: a model and its adapters are compared before any is loaded.

llama.cpp's own words for a wrong file are a line in its log; here they are a sentence with the
way out.
"""

from dataclasses import dataclass
from pathlib import Path

from .. import KitError
from ..models import read_gguf_header


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    kind: "model", or "lora" of an adapter; another word is something that is not served.
    shapes: tensor to its shape, inputs first, as GGUF writes it.
    context: the tokens that the model was trained to see, 0 where it does not say.
    template: whether there is a chat template. parts: files that the model is split into.
    """

    path: Path
    kind: str
    architecture: str
    shapes: dict[str, tuple[int, ...]]
    context: int = 0
    template: bool = False
    parts: int = 1


def read_header(path: str | Path) -> Header:
    """Read a GGUF file's header; the weights are not touched.

    Args:
        path: the file.

    Raises:
        KitError: no file, not GGUF, or cut off.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "is not there"
        raise KitError(f"{file} {what}. A GGUF file is wanted; 'qlora-kit export' writes one.")
    found = read_gguf_header(file, sizes=False)
    said = found.metadata
    architecture = str(said.get("general.architecture", ""))
    kind = str(said.get("general.type", "model"))
    return Header(
        path=file,
        kind=str(said.get("adapter.type", kind)) if kind == "adapter" else kind,
        architecture=architecture,
        shapes={tensor.name: tensor.shape for tensor in found.tensors},
        context=int(said.get(f"{architecture}.context_length", 0)),
        template=said.get("tokenizer.chat_template") is not None,
        parts=int(said.get("split.count", 1)) or 1,
    )


def read_model(path: str | Path) -> Header:
    """The header of a file that is to be served.

    Args:
        path: a GGUF model.

    Raises:
        KitError: see `read_header`; or an adapter, which is no model by itself.
    """
    header = read_header(path)
    if header.kind == "lora":
        raise KitError(
            f"{header.path} is a LoRA adapter, not a model. Serve the model that it was trained "
            f"on, with --lora NAME={header.path.name}."
        )
    if header.kind != "model":
        raise KitError(f"{header.path} holds no model: its type is {header.kind!r}.")
    return header


def read_adapter(path: str | Path, base: Header) -> Header:
    """The header of an adapter, when it fits the model.

    Args:
        path: a GGUF LoRA adapter.
        base: the model's header.

    Raises:
        KitError: see `read_header`; not a LoRA adapter, or one of another model.
    """
    header = read_header(path)
    if header.kind != "lora":
        raise KitError(
            f"{header.path} is not a LoRA adapter but holds a {header.kind}. Export the adapter of "
            "a run by itself, or serve this file as the model."
        )
    wrong = _misfit(header, base)
    if wrong:
        raise KitError(
            f"The adapter {header.path} does not fit {base.path}: {wrong}. It was trained on "
            "another model; serve that one."
        )
    return header


def _misfit(adapter: Header, base: Header) -> str:
    """The first thing that differs; "" when all fits."""
    if adapter.architecture != base.architecture:
        return f"it is for a {adapter.architecture!r} model, this is {base.architecture!r}"
    names = {name.rpartition(".lora_")[0] for name in adapter.shapes if ".lora_" in name}
    if not names:
        return "there are no lora_a and lora_b tensors in it"
    if base.parts > 1:  # the other tensors are in other files; llama.cpp compares them
        return ""
    for name in sorted(names):
        down, up = (adapter.shapes.get(f"{name}.lora_{half}") for half in "ab")
        target = base.shapes.get(name)
        if down is None or up is None:
            return f"of {name} it has only one of lora_a and lora_b"
        if target is None:
            return f"the model has no {name}"
        looked_up = name.startswith("token_embd")  # not multiplied, so its halves lie transposed
        found = (up[1], down[1]) if looked_up else (down[0], up[1])
        if found != target[:2]:
            return f"{name} is {_size(target)}, the adapter's {_size(found)}"
    return ""


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
