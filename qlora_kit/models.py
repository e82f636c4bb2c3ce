"""A model name becomes local weights, and local weights become a loaded model.

A name is one of four things: a bundled model ("smollm2"), a Hub id ("org/name"), a local
folder with safetensors, or a GGUF file. No remote code is ever run, and no pickle is ever read.
"""

import difflib
import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import KitError
from .fetch import BUNDLED, bundled_folder, gguf_folder, quantized_folder, quiet
from .hardware import Machine, cache_home, detect, release_memory
from .templates import show_new_template

PRECISIONS = ("nf4", "fp4", "int8", "16bit", "32bit")


@dataclass(frozen=True)
class ModelRef:
    """Where a model's weights are. source: "bundled", "hub", "folder" or "gguf".

    location is what `from_pretrained` takes: a folder, or the Hub id itself.
    """

    name: str
    source: str
    location: str


def resolve(name: str) -> ModelRef:
    """Find the weights behind a model name, fetching or converting them when needed.

    Args:
        name: a bundled name, a Hub id, a folder or a GGUF file.

    Returns:
        A reference whose location transformers can load (a Hub id is downloaded by it).

    Raises:
        KitError: unknown name, unsafe or missing weights, no network, wrong hash, full disk.
    """
    path = Path(name).expanduser()
    if name in BUNDLED:
        return ModelRef(name, "bundled", str(bundled_folder(BUNDLED[name])))
    if path.is_dir():
        _require_safetensors(path)
        return ModelRef(name, "folder", str(path.resolve()))
    if path.suffix == ".gguf" or path.is_file():
        return ModelRef(name, "gguf", str(gguf_folder(path)))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return ModelRef(name, "hub", name)
    close = difflib.get_close_matches(name, BUNDLED, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise KitError(
        f"There is no model {name!r}.{hint} A model is a bundled name ({', '.join(BUNDLED)}), "
        "a Hub id such as HuggingFaceTB/SmolLM2-360M-Instruct, a folder with safetensors, "
        "or a .gguf file."
    )


def locate(name: str) -> Path | None:
    """The folder with a model's weights when it is on this machine already; nothing is fetched.

    Args:
        name: see `resolve`.
    """
    from huggingface_hub import try_to_load_from_cache

    path = Path(name).expanduser()
    if name in BUNDLED:
        folder = cache_home() / name
        return folder if folder.is_dir() else None
    if path.is_dir():
        return path
    if path.is_file():
        return Path(resolve(name).location)
    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no Hub id either: an absent folder
        return None
    return Path(found).parent if isinstance(found, str) else None


def load(name: str, precision: str = "nf4", machine: Machine | None = None) -> tuple[Any, Any]:
    """Load a model and its tokenizer with the right dtypes for this machine.

    On a CPU everything but the quantized products stays in fp32: a 16-bit sum drops the
    small steps that an adapter takes. On a GPU the model runs in its compute dtype.

    Args:
        name: see `resolve`.
        precision: "nf4" or "fp4" (4 bits, double quantization), "int8", "16bit" or "32bit".
        machine: defaults to this one.

    Returns:
        (model, tokenizer); the model is in eval mode, on the machine's device.

    Raises:
        KitError: a precision or model that is not there, or weights that cannot be read.
    """
    if precision not in PRECISIONS:
        raise KitError(f"No precision {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    machine = machine or detect()
    ref = resolve(name)
    import torch
    from transformers import AutoTokenizer

    compute = getattr(torch, machine.compute_dtype)
    sixteen = compute if compute != torch.float32 else torch.bfloat16
    whole = machine.device == "cpu" or compute == torch.float32
    dtype = torch.float32 if precision == "32bit" or (whole and precision != "16bit") else sixteen
    arguments = {
        "dtype": dtype,
        "quantization_config": _quantization(precision, compute),
        "device_map": {"": machine.device},
        "use_safetensors": True,
        "trust_remote_code": False,
    }
    with _explained(ref):
        tokenizer = AutoTokenizer.from_pretrained(ref.location, trust_remote_code=False)
        model = _load_weights(ref, precision, machine, arguments)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    show_new_template(ref.name, tokenizer.chat_template, own=ref.source == "bundled")
    _keep_packing(model)
    if machine.device == "cpu":
        _require_sound_blocks(model)
    return model.eval(), tokenizer


def _load_weights(
    ref: ModelRef, precision: str, machine: Machine, arguments: dict[str, Any]
) -> Any:  # fmt: skip
    """A model from its files, or from a copy in 4 bits: quicker, and never whole in memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def save(target: Path) -> None:
        AutoModelForCausalLM.from_pretrained(ref.location, **arguments).save_pretrained(target)
        release_memory()

    ours = machine.device == "cpu" and ref.source in ("bundled", "gguf")  # lies in the kit's cache
    copy = None
    if ours and precision in ("nf4", "fp4"):
        copy = quantized_folder(Path(ref.location), precision, save)
    if copy is None:
        return AutoModelForCausalLM.from_pretrained(ref.location, **arguments)
    try:
        config = AutoConfig.from_pretrained(copy)
        config.quantization_config["bnb_4bit_compute_dtype"] = machine.compute_dtype
        given = {**arguments, "config": config, "quantization_config": None}
        model = AutoModelForCausalLM.from_pretrained(copy, **given)
    except Exception:  # each library has errors of its own; the next load makes another copy
        shutil.rmtree(copy, ignore_errors=True)
        return AutoModelForCausalLM.from_pretrained(ref.location, **arguments)
    model.name_or_path = model.config._name_or_path = ref.location  # the base that adapters name
    return model


def _quantization(precision: str, compute: Any) -> Any:
    """transformers still defaults to FP4, fp32 compute and no double quantization."""
    from transformers import BitsAndBytesConfig

    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if precision in ("nf4", "fp4"):
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=precision,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    return None


def _keep_packing(model: Any) -> None:
    """On AVX512-BF16, bitsandbytes' eval() repacks weights and train() does not undo it."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _require_sound_blocks(model: Any) -> None:
    """bitsandbytes' AVX512 code (seen in 0.50.2) mis-scales rows that end within a block.

    Hardly a model has such rows (64 values are a block); one that has would be silently wrong.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for width in {layer.in_features for layer in layers if layer.in_features % 64}:
        rows = torch.linspace(0.01, 1, 64)[:, None].expand(64, width).contiguous()
        packed, state = quantize_4bit(rows, quant_type="nf4")
        if (dequantize_4bit(packed, state) - rows).abs().max() > 0.2:
            raise KitError(
                f"This model has layers of {width} inputs, and bitsandbytes restores 4-bit rows "
                "wrongly on this CPU when they are no multiple of 64. Use --precision 16bit."
            )


def free(*holders: dict[str, Any]) -> None:
    """Give a model's memory back: drop what the dicts hold, collect, empty the GPU's cache.

    Args:
        holders: dicts that own models, trainers or tensors, for example `globals()` subsets.
    """
    import torch

    for holder in holders:
        holder.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _require_safetensors(folder: Path) -> None:
    try:
        names = os.listdir(folder)
    except PermissionError as problem:
        raise KitError(f"The folder {folder} cannot be read: {problem.strerror}.") from problem
    if "config.json" not in names:
        raise KitError(f"{folder} holds no model: there is no config.json in it.")
    if any(name.endswith(".safetensors") for name in names):
        return
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        raise KitError(
            f"{folder} has its weights only as pickle files, which can run code when read. "
            "Save the model again as safetensors (save_pretrained does)."
        )
    raise KitError(f"{folder} has a config.json but no .safetensors weights.")


@contextmanager
def _explained(ref: ModelRef) -> Iterator[None]:
    """Turn what transformers raises into one sentence with the way out."""
    try:
        with quiet():
            yield
    except Exception as problem:  # each library has errors of its own
        said = str(problem).strip().splitlines()[0] if str(problem).strip() else repr(problem)
        if "trust_remote_code" in str(problem):
            way_out = "It needs code of its own, which qlora-kit never runs: choose another model."
        elif ref.source == "hub":
            way_out = (
                "Check the spelling and the network; for a gated model log in first with "
                "'hf auth login'. Offline, give a local folder or a .gguf file, or use 'smollm2'."
            )
        else:
            way_out = f"Check the files in {ref.location}."
        raise KitError(f"The model {ref.name!r} cannot be loaded: {said} {way_out}") from problem
