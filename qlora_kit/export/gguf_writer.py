"""Dense weights and adapters as GGUF files that llama.cpp reads by itself.

For the Llama-like architectures. Weights keep their values up to the rounding asked for; only the
rows of Llama's q and k change places, since llama.cpp turns neighboring pairs of a head where
transformers turns its two halves.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .. import KitError
from ..data import stop_ids
from ..models import Tokenizer
from ..runs import with_room
from .gguf_vocab import add_tokenizer

QUANTS = ("f16", "q8_0", "q5_0", "q4_1", "q4_0")
# transformers' model_type -> llama.cpp's name; whether q and k change places.
_ARCHITECTURES = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
}


def write_gguf(
    model: Any,
    tokenizer: Tokenizer,
    path: Path,
    quant: str = "f16",
    name: str = "",
    license: str = "",
) -> Path:
    """Write a dense model with its tokenizer and chat template into one GGUF file.

    Args:
        model: a transformers model of a known architecture, not quantized.
        tokenizer: its fast tokenizer.
        path: the file.
        quant: "f16", "q8_0", "q5_0", "q4_1" or "q4_0" for the matrices; norms and biases stay in
            fp32. With 4 and 5 bits, embedding and head take q8_0, as they suffer most.
        name, license: for people, in the file's metadata.

    Returns:
        The path.

    Raises:
        KitError: an architecture, rope scaling, tokenizer or quant that is not known.
    """
    import gguf

    if quant not in QUANTS:
        raise KitError(f"Unknown quant {quant!r}; choose one of {', '.join(QUANTS)}.")
    architecture, _ = architecture_of(model.config)
    matrix_kind = gguf.GGMLQuantizationType[quant.upper()]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    if name:
        writer.add_name(name)
    if license:
        writer.add_license(license.lower())
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quant.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, model.config)
    size = model.get_input_embeddings().weight.shape[0]
    add_tokenizer(writer, tokenizer, size, stop_ids(tokenizer, model))
    for tensor, values in _tensors(model):
        kind = _kind(tensor, values, matrix_kind)
        writer.add_tensor(tensor, gguf.quants.quantize(values, kind), raw_dtype=kind)
    return _write(writer, path)


def write_adapter(model: Any, path: Path, name: str = "") -> Path:
    """Write a LoRA adapter alone, for llama.cpp's `--lora` on a GGUF of its base.

    Args:
        model: a PEFT model with one active adapter.
        path: the file.
        name: for people.

    Returns:
        The path.

    Raises:
        KitError: an architecture that is not known, or an adapter that is more than A and B.
    """
    import gguf

    config = model.get_base_model().config
    architecture, _ = architecture_of(config)
    layers = list(_adapter_layers(model))  # refused before a file is opened
    alpha = float(model.peft_config[model.active_adapter].lora_alpha)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    if name:
        writer.add_name(name)
    for layer, A, B, scaling in layers:
        tensor = _named(f"{layer}.weight", config)
        # llama.cpp scales by alpha / rank; what a layer scales otherwise goes into its B.
        B = _placed(layer, B * (scaling * A.shape[0] / alpha), config)
        for suffix, matrix in (("lora_a", A), ("lora_b", B)):
            writer.add_tensor(f"{tensor}.{suffix}", matrix.numpy())
    return _write(writer, path)


def architecture_of(config: Any) -> tuple[str, bool]:
    """llama.cpp's name of an architecture, and whether its q and k change places.

    Args:
        config: a transformers configuration.

    Raises:
        KitError: another architecture, with the way out.
    """
    if config.model_type not in _ARCHITECTURES:
        raise KitError(
            f"The GGUF writer knows {', '.join(_ARCHITECTURES)}, not {config.model_type!r}. Export "
            "with --to merged, then use llama.cpp's own converter on that folder: python "
            "convert_hf_to_gguf.py FOLDER (for adapters convert_lora_to_gguf.py)."
        )
    return _ARCHITECTURES[config.model_type]


def _add_shape(writer: Any, config: Any) -> None:
    head = _head_size(config)
    rope = config.rope_parameters
    # llama.cpp sees all of the context; up to the window the two are the same.
    window = getattr(config, "sliding_window", None) or config.max_position_embeddings
    shape = {
        "block_count": config.num_hidden_layers,
        "context_length": min(config.max_position_embeddings, window),
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "key_length": head,
        "value_length": head,
        "rope_dimension_count": head,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        "rope_freq_base": rope["rope_theta"],
    }
    for name, value in shape.items():
        getattr(writer, f"add_{name}")(value)
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind not in ("default", "llama3"):
        raise KitError(
            f"The GGUF writer does not know the rope scaling {kind!r}. Export with --to merged and "
            "use llama.cpp's own convert_hf_to_gguf.py."
        )


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """llama.cpp's name and the fp32 values of each tensor."""
    tied = model.config.tie_word_embeddings
    for name, parameter in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue  # llama.cpp takes the embedding where there is no head
        values = _placed(name.rpartition(".")[0], parameter.detach().float().cpu(), model.config)
        yield _named(name, model.config), values.numpy()
    if model.config.rope_parameters.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _rope_factors(model.config).numpy()


def _named(name: str, config: Any) -> str:
    architecture, _ = architecture_of(config)
    names = _names(architecture, config.num_hidden_layers)
    tensor = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if tensor is None:
        raise KitError(f"llama.cpp's {architecture} has no tensor for {name}. Merge instead.")
    return tensor


@cache
def _names(architecture: str, layers: int) -> Any:
    """All names of a model, which take as long to make as a tensor to write."""
    import gguf

    return gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], layers)


def _placed(layer: str, values: Any, config: Any) -> Any:
    """Rows of q and k as llama.cpp's rotation wants them: a head's two halves interleaved.

    Source: `permute` of llama.cpp's converter for Llama.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = heads.get(layer.rpartition(".")[2])
    if count is None or not architecture_of(config)[1]:
        return values.contiguous()
    halves = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape).contiguous()


def _kind(tensor: str, values: Any, matrix_kind: Any) -> Any:
    """The type that a tensor is written in."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if values.ndim == 1:
        return GGMLQuantizationType.F32
    kind = matrix_kind
    if tensor in ("token_embd.weight", "output.weight") and kind.name.startswith(("Q4", "Q5")):
        kind = GGMLQuantizationType.Q8_0
    block, _ = GGML_QUANT_SIZES[kind]
    return GGMLQuantizationType.F16 if values.shape[-1] % block else kind


def _rope_factors(config: Any) -> Any:
    """By what Llama 3 stretches each frequency: the plain one over the one that it uses."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    head = _head_size(config)
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, head, 2).float() / head)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    return plain / frequencies


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _adapter_layers(model: Any) -> Iterator[tuple[str, Any, Any, float]]:
    """Name in the base, A (rank, in), B (out, rank) and scale of each adapted layer."""
    from peft.tuners.lora import LoraLayer

    name = model.active_adapter
    settings = model.peft_config[name]
    if settings.modules_to_save or settings.use_dora or settings.lora_bias:
        raise KitError(
            "This adapter holds more than A and B (DoRA, a bias, or whole layers), which a GGUF "
            "adapter cannot. Merge it: --to gguf."
        )
    layers = [
        each for each in model.get_base_model().named_modules() if isinstance(each[1], LoraLayer)
    ]
    for path, layer in layers:
        if name not in layer.lora_A:
            raise KitError(f"The adapter of {path} is no plain LoRA. Merge it: --to gguf.")
        A, B = layer.lora_A[name].weight, layer.lora_B[name].weight
        yield path, A.detach().float().cpu(), B.detach().float().cpu(), layer.scaling[name]


def _write(writer: Any, path: Path) -> Path:
    def write() -> None:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()

    try:
        with_room(path, write, "Make room there, or choose another place.")
    finally:
        writer.close()
    return path
