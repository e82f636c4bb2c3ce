"""Architectures from 135M to 70B parameters and what GPUs hold, as plain numbers, offline."""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import KitError

GIB = 2**30

# Memory of each GPU that torch.cuda can hand out, in GiB: what is printed on the box less what
# the driver and error correction keep.
GPUS: dict[str, float] = {
    "RTX 3060": 11.75,
    "RTX 4070": 11.75,
    "T4": 14.6,
    "RTX 4060 Ti 16": 15.6,
    "RTX 4080": 15.6,
    "V100 16": 15.8,
    "L4": 22.0,
    "A10G": 22.0,
    "RTX 3090": 23.6,
    "RTX 4090": 23.5,
    "RTX 5090": 31.4,
    "V100 32": 31.7,
    "A100 40": 39.4,
    "L40S": 44.4,
    "A100 80": 79.2,
    "H100": 79.1,
    "H200": 139.7,
}


@dataclass(frozen=True)
class ModelShape:
    """What decides a Llama-like model's memory: widths, counts and which small parts it has.

    hidden, intermediate: widths of the residual stream and of the MLP.
    heads, kv_heads, head_dim: query heads, key and value heads, width of each.
    vocab: rows of the embedding.   tied: the head is the embedding, stored once.
    qkv_bias, qk_norm: biases on query, key and value (Qwen2); norms on query and key (Qwen3).
    norms: norms a layer, 2 in most models and 4 in Gemma 2 and 3.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    norms: int = 2

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """A layer's linear weights, the ones that are quantized: name -> (in, out)."""
        h, i, q, kv = self.hidden, self.intermediate, self.query_width, self.kv_width
        attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}

    @property
    def linear_parameters(self) -> int:
        """Parameters in the linear weights of all layers, without the head."""
        return self.layers * sum(rows * columns for rows, columns in self.linears.values())

    @property
    def other_parameters(self) -> int:
        """Parameters that stay in 16 or 32 bits: embedding, head, norms and biases."""
        embedding = self.vocab * self.hidden * (1 if self.tied else 2)
        layer = self.norms * self.hidden
        layer += (self.query_width + 2 * self.kv_width) if self.qkv_bias else 0
        layer += 2 * self.head_dim if self.qk_norm else 0
        return embedding + self.layers * layer + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, as `sum(p.numel() for p in model.parameters())` counts them."""
        return self.linear_parameters + self.other_parameters

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any]) -> "ModelShape":
        """Read the shape from a model's config.json (Llama, Mistral, Qwen2, Qwen3, Gemma).

        Args:
            config: the model's folder, its config.json, or what is in it.

        Raises:
            KitError: no readable config.json, or an architecture this does not describe.
        """
        values, where = _read_config(config)
        name = str(values.get("_name_or_path") or where)
        if "text_config" in values:  # a model that also sees images: its language part
            values = {**values, **values["text_config"]}
        kind = str(values.get("model_type", "llama"))
        if kind not in _KINDS:
            raise KitError(
                f"{where}: the planner knows {', '.join(_KINDS)}, not {kind!r} (mixtures of "
                "experts and other layouts keep other things). Choose a model of those kinds."
            )
        missing = [key for key in _SIZES if not isinstance(values.get(key), int)]
        if missing:
            raise KitError(f"{where}: {', '.join(missing)} missing; is it a language model's?")
        heads = values["num_attention_heads"]
        return cls(
            name=name,
            hidden=values["hidden_size"],
            intermediate=values["intermediate_size"],
            layers=values["num_hidden_layers"],
            heads=heads,
            kv_heads=values.get("num_key_value_heads") or heads,
            head_dim=values.get("head_dim") or values["hidden_size"] // heads,
            vocab=values["vocab_size"],
            tied=bool(values.get("tie_word_embeddings", kind.startswith("gemma"))),
            qkv_bias=kind == "qwen2",
            qk_norm=kind in ("qwen3", "gemma3", "gemma3_text"),
            norms=4 if kind in ("gemma2", "gemma3", "gemma3_text") else 2,
        )


_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
_KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text")


def _read_config(config: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    if isinstance(config, Mapping):
        return dict(config), "config"
    path = Path(config).expanduser()
    path = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise KitError(f"{path} cannot be read as a model's config.json: {problem}") from problem
    if not isinstance(values, dict):
        raise KitError(f"{path} must hold one JSON object.")
    return values, path.parent.resolve().name


_Sizes = dict[str, tuple[Any, ...]]
# name: hidden, intermediate, layers, heads, kv_heads, head_dim, vocab
_LLAMA: _Sizes = {
    "Llama-7B": (4096, 11008, 32, 32, 32, 128, 32000),
    "Llama-13B": (5120, 13824, 40, 40, 40, 128, 32000),
    "Llama-33B": (6656, 17920, 60, 52, 52, 128, 32000),
    "Llama-65B": (8192, 22016, 80, 64, 64, 128, 32000),
    "Llama-2-7B": (4096, 11008, 32, 32, 32, 128, 32000),
    "Llama-2-13B": (5120, 13824, 40, 40, 40, 128, 32000),
    "Llama-2-70B": (8192, 28672, 80, 64, 8, 128, 32000),
    "Llama-3.1-8B": (4096, 14336, 32, 32, 8, 128, 128256),
    "Llama-3.1-70B": (8192, 28672, 80, 64, 8, 128, 128256),
    "Mistral-7B": (4096, 14336, 32, 32, 8, 128, 32000),
    "TinyLlama-1.1B": (2048, 5632, 22, 32, 4, 64, 32000),
}
_LLAMA_TIED: _Sizes = {
    "Llama-3.2-1B": (2048, 8192, 16, 32, 8, 64, 128256),
    "Llama-3.2-3B": (3072, 8192, 28, 24, 8, 128, 128256),
    "SmolLM2-135M": (576, 1536, 30, 9, 3, 64, 49152),
    "SmolLM2-360M": (960, 2560, 32, 15, 5, 64, 49152),
    "SmolLM2-1.7B": (2048, 8192, 24, 32, 32, 64, 49152),
}
_QWEN25_TIED: _Sizes = {
    "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 64, 151936),
    "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 128, 151936),
    "Qwen2.5-3B": (2048, 11008, 36, 16, 2, 128, 151936),
}
_QWEN25: _Sizes = {
    "Qwen2.5-7B": (3584, 18944, 28, 28, 4, 128, 152064),
    "Qwen2.5-14B": (5120, 13824, 48, 40, 8, 128, 152064),
    "Qwen2.5-32B": (5120, 27648, 64, 40, 8, 128, 152064),
    "Qwen2.5-72B": (8192, 29568, 80, 64, 8, 128, 152064),
}
_QWEN3_TIED: _Sizes = {
    "Qwen3-0.6B": (1024, 3072, 28, 16, 8, 128, 151936),
    "Qwen3-1.7B": (2048, 6144, 28, 16, 8, 128, 151936),
    "Qwen3-4B": (2560, 9728, 36, 32, 8, 128, 151936),
}
_QWEN3: _Sizes = {
    "Qwen3-8B": (4096, 12288, 36, 32, 8, 128, 151936),
    "Qwen3-14B": (5120, 17408, 40, 40, 8, 128, 151936),
    "Qwen3-32B": (5120, 25600, 64, 64, 8, 128, 151936),
}
_GEMMA2: _Sizes = {
    "Gemma-2-2B": (2304, 9216, 26, 8, 4, 256, 256000),
    "Gemma-2-9B": (3584, 14336, 42, 16, 8, 256, 256000),
    "Gemma-2-27B": (4608, 36864, 46, 32, 16, 128, 256000),
}
_GEMMA3: _Sizes = {
    "Gemma-3-270M": (640, 2048, 18, 4, 1, 256, 262144),
    "Gemma-3-1B": (1152, 6912, 26, 4, 1, 256, 262144),
}
_FAMILIES: list[tuple[_Sizes, dict[str, Any]]] = [
    (_LLAMA, {}),
    (_LLAMA_TIED, {"tied": True}),
    (_QWEN25_TIED, {"tied": True, "qkv_bias": True}),
    (_QWEN25, {"qkv_bias": True}),
    (_QWEN3_TIED, {"tied": True, "qk_norm": True}),
    (_QWEN3, {"qk_norm": True}),
    (_GEMMA2, {"tied": True, "norms": 4}),
    (_GEMMA3, {"tied": True, "norms": 4, "qk_norm": True}),
]
SHAPES: dict[str, ModelShape] = {
    name: ModelShape(name, *sizes, **parts)
    for family, parts in _FAMILIES
    for name, sizes in family.items()
}
_NICKNAMES = {"smollm2": "SmolLM2-135M"}  # the bundled model


def find_shape(model: str) -> ModelShape:
    """The shape behind a model's name, offline.

    Args:
        model: a name in `SHAPES` (in any case; an owner before it and -Instruct and the like
            behind it do not matter), "smollm2", or a folder with a config.json.

    Raises:
        KitError: a name that is not known, with the closest one.
    """
    path = Path(model).expanduser()
    if path.is_file() or (path / "config.json").is_file():
        return ModelShape.from_config(path)
    plain = _NICKNAMES.get(model.lower(), model).split("/")[-1].lower().removeprefix("meta-")
    plain = re.sub(r"(-(hf|base|instruct|chat|it|pt|v\d+(\.\d+)?))+$", "", plain)
    names = {name.lower(): name for name in SHAPES}
    if plain in names:
        return SHAPES[names[plain]]
    raise KitError(
        f"The planner does not know the model {model!r}.{_closest(plain, names)} Known: "
        f"{', '.join(SHAPES)}; or give a folder that holds the model's config.json."
    )


def find_gpu(name: str) -> tuple[str, int]:
    """A GPU by name, in any case and spacing.

    Args:
        name: for example "t4", "rtx4090", "4090" or "A100-80".

    Returns:
        (name in `GPUS`, bytes that can be used).

    Raises:
        KitError: not in `GPUS`; the message lists them.
    """
    known = {_squeeze(gpu): gpu for gpu in GPUS}
    wanted = _squeeze(name)
    for spelling in (wanted, wanted.removesuffix("gb"), "rtx" + wanted, "rtx" + wanted + "16"):
        if spelling in known:
            gpu = known[spelling]
            return gpu, int(GPUS[gpu] * GIB)
    raise KitError(
        f"The planner does not know the GPU {name!r}.{_closest(wanted, known)} Known: "
        f"{', '.join(GPUS)}."
    )


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("nvidia", "").replace("geforce", ""))


def _closest(wanted: str, known: Mapping[str, str]) -> str:
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    return f" Did you mean {known[close[0]]!r}?" if close else ""
