"""Small GGUF files for the tests: headers of models, and random LoRA adapters."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

WIDTH = 576  # of the bundled model
LAYERS = range(0, 30, 3)


def write_model(path: Path, architecture="llama", shapes=None, kind="model", template=True) -> Path:
    """A file with a model's header and zeros; nothing that could be loaded."""
    writer = GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_context_length(128)
    if template:
        writer.add_chat_template("{{ messages }}")
    for name, shape in (shapes or {"blk.0.attn_q.weight": (8, 8)}).items():
        writer.add_tensor(name, np.zeros(shape[::-1], np.float32))
    return _close(writer, path)


def write_adapter(
    path: Path, seed=0, architecture="llama", sizes=(WIDTH, WIDTH), names=None, halves="ab",
    strength=0.3, adapter="lora",
) -> Path:  # fmt: skip
    """A LoRA adapter of rank 4 with random halves, by default for the bundled model."""
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", adapter)
    writer.add_float32("adapter.lora.alpha", 4.0)
    random = np.random.default_rng(seed)
    shapes = {"a": (4, sizes[0]), "b": (sizes[1], 4)}
    for name in names or [f"blk.{layer}.attn_output.weight" for layer in LAYERS]:
        for half in halves:
            values = random.normal(0, strength, shapes[half]).astype(np.float32)
            writer.add_tensor(f"{name}.lora_{half}", values)
    return _close(writer, path)


def _close(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
