"""Local weights become a loaded model, in the right dtypes for this machine.

No remote code is ever run.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import Machine, detect, ran_out_of_memory, release_memory
from .cache import FOUR_BITS, is_of_library, quantized_folder
from .chat_templates import show_new_template
from .logging import quiet
from .sources import PRECISIONS, ModelRef, resolve
from .types import Model, Tokenizer


def load(
    name: str, precision: str = "nf4", machine: Machine | None = None
) -> tuple[Model, Tokenizer]:
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
    if precision == "int8" and machine.device == "cpu":
        with quiet():
            _require_exact_int8()
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
) -> Any:
    """A model from its files, or from a copy in 4 bits: quicker, and never whole in memory."""
    from transformers import AutoModelForCausalLM

    def save(target: Path) -> None:
        AutoModelForCausalLM.from_pretrained(ref.location, **arguments).save_pretrained(target)
        release_memory()

    ours = machine.device == "cpu" and ref.source in ("bundled", "gguf")  # lies in the kit's cache
    copy = None
    if ours and precision in FOUR_BITS:
        copy = quantized_folder(Path(ref.location), precision, save)
    if copy is not None:
        try:
            return _load_copy(copy, ref, machine, arguments)
        except Exception as problem:
            full = ran_out_of_memory(problem)  # the copy is sound, and its original takes far more
            if full or not is_of_library(problem):
                raise
            shutil.rmtree(copy, ignore_errors=True)  # the next load makes another one
    return AutoModelForCausalLM.from_pretrained(ref.location, **arguments)


def _load_copy(copy: Path, ref: ModelRef, machine: Machine, arguments: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(copy)
    config.quantization_config["bnb_4bit_compute_dtype"] = machine.compute_dtype
    own = {**arguments, "config": config, "quantization_config": None}
    model = AutoModelForCausalLM.from_pretrained(copy, **own)
    model.name_or_path = model.config._name_or_path = ref.location  # the base that adapters name
    return model


def _quantization(precision: str, compute: Any) -> Any:
    """transformers still defaults to FP4, fp32 compute and no double quantization."""
    from transformers import BitsAndBytesConfig

    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if precision in FOUR_BITS:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=precision,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    return None


def _keep_packing(model: Model) -> None:
    """On AVX512-BF16, bitsandbytes' eval() repacks weights and train() does not undo it."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _require_exact_int8() -> None:
    """On AVX512 without VNNI, torch's int8 products add pairs in 16 bits, which overflow.

    Seen with torch 2.13.0 and bitsandbytes 0.50.2: answers with a cosine of 0.88, and no word.
    """
    import torch
    from bitsandbytes.functional import int8_linear_matmul

    largest = torch.full((16, 64), 127, dtype=torch.int8)
    if (int8_linear_matmul(largest, largest) != 64 * 127 * 127).any():
        raise KitError(
            "int8 products overflow on this CPU (AVX512 without VNNI), and the model would answer "
            "wrongly. Use --precision nf4 or 16bit."
        )


def _require_sound_blocks(model: Model) -> None:
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


@contextmanager
def _explained(ref: ModelRef) -> Iterator[None]:
    """Turn what transformers raises into one sentence with the way out."""
    try:
        with quiet():
            yield
    except Exception as problem:
        if not is_of_library(problem):
            raise
        kind = type(problem).__name__
        lines = str(problem).strip().splitlines()
        # Of these the text may be no more than a name.
        plain = lines and not isinstance(problem, AttributeError | LookupError | TypeError)
        reason = lines[0] if plain else f"{kind}: {problem}"
        if ran_out_of_memory(problem):
            way_out = (
                "Memory ran out: close other programs, or choose a smaller model; 'qlora-kit plan' "
                "says what one takes."
            )
        elif "trust_remote_code" in str(problem):
            way_out = "It needs code of its own, which qlora-kit never runs: choose another model."
        elif ref.source == "hub":
            way_out = (
                "Check the spelling and the network; for a gated model log in first with "
                "'hf auth login'. Offline, give a local folder or a .gguf file, or use 'smollm2'."
            )
        else:
            way_out = f"Check the files in {ref.location}."
        raise KitError(f"The model {ref.name!r} cannot be loaded: {reason} {way_out}") from problem
