"""What this machine is: its device, the dtype it is fast in, free memory."""

import dataclasses
import importlib.metadata
import logging
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .threads import settle_functions, usable_cores

GB = 1e9


@dataclass(frozen=True)
class Machine:
    """What matters about this machine for training.

    device: "cuda", "mps" or "cpu", the first that is there.
    compute_dtype: the dtype that matrix products are fast in, a name in `torch`.
    free_memory_gb, total_memory_gb: main memory that this process may use, in 10^9 bytes.
    gpu_free_gb, gpu_total_gb: memory of the first GPU, 0 without one.
    """

    device: str
    name: str
    compute_dtype: str
    cores: int
    free_memory_gb: float
    total_memory_gb: float
    gpu_free_gb: float = 0.0
    gpu_total_gb: float = 0.0

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in the compute dtype."""
        return 4 if self.compute_dtype == "float32" else 2

    def __str__(self) -> str:
        memory = f"{self.free_memory_gb:.1f} of {self.total_memory_gb:.1f} GB free"
        if self.device == "cuda":
            memory += f", GPU {self.gpu_free_gb:.1f} of {self.gpu_total_gb:.1f} GB free"
        return f"{self.device} ({self.name}), {self.compute_dtype}, {self.cores} cores, {memory}"


def fast_cpu_dtype(capabilities: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """The dtype in which this CPU multiplies matrices fast.

    Without AVX512-BF16 or AMX a 16-bit product is emulated, hundreds of times slower than
    fp32, though `torch.cuda.is_bf16_supported`-like questions are answered with yes.

    Args:
        capabilities: CPU features by name, as `torch.cpu.get_capabilities()` gives them.
        environ: oneDNN's ISA limit is respected, so a slower CPU can be tried out.

    Returns:
        "bfloat16" or "float32".
    """
    limit = environ.get("ONEDNN_MAX_CPU_ISA", environ.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    allowed = limit in ("ALL", "DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE_FP16")
    allowed = allowed or limit.startswith(("AVX512_CORE_AMX", "AVX10"))
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if allowed and fast else "float32"


def fast_cuda_dtype(capability: tuple[int, int]) -> str:
    """bf16 from Ampere (8.0) on; fp16 on Volta and Turing; fp32 before.

    `torch.cuda.is_bf16_supported()` says yes on a T4, which only emulates it.

    Args:
        capability: CUDA compute capability, (major, minor).
    """
    if capability >= (8, 0):
        return "bfloat16"
    return "float16" if capability >= (7, 0) else "float32"


def detect() -> Machine:
    """Look at this machine: CUDA, else MPS, else CPU; and make its functions ready for threads."""
    import torch

    settle_functions()
    # At its first import it advises to install a kernel that the kit has no use for.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    free, total = main_memory()
    common: dict[str, Any] = {
        "cores": usable_cores(),
        "free_memory_gb": round(free / GB, 2),
        "total_memory_gb": round(total / GB, 2),
    }
    if torch.cuda.is_available():
        gpu_free, gpu_total = torch.cuda.mem_get_info(0)
        return Machine(
            device="cuda",
            name=torch.cuda.get_device_name(0),
            compute_dtype=fast_cuda_dtype(torch.cuda.get_device_capability(0)),
            gpu_free_gb=round(gpu_free / GB, 2),
            gpu_total_gb=round(gpu_total / GB, 2),
            **common,
        )
    if torch.backends.mps.is_available():
        return Machine(device="mps", name="Apple GPU", compute_dtype="float32", **common)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    name = str(capabilities.get("cpu_name") or platform.processor() or platform.machine())
    dtype = fast_cpu_dtype(capabilities, os.environ)
    return Machine(device="cpu", name=name, compute_dtype=dtype, **common)


def main_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Memory that this process may still take and may take at most, in bytes.

    A container's limit counts, not the host's memory behind it.

    Args:
        cgroup: where the control groups (version 2 or 1) are mounted.

    Returns:
        (free, total).
    """
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    for limit_file, used_file, stat_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _read_int(cgroup / limit_file), _read_int(cgroup / used_file)
        if limit is None or used is None or limit >= total:
            continue
        stat = (cgroup / limit_file).with_name("memory.stat")
        free = min(free, limit - used + _read_stat(stat, stat_key))
        total = limit
    return max(free, 0), total


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _read_stat(path: Path, key: str) -> int:
    try:
        pairs = (line.split() for line in path.read_text().splitlines())
        return next(int(pair[1]) for pair in pairs if pair[0] == key)
    except (OSError, StopIteration):
        return 0


def peak_rss_gb() -> float:
    """The most main memory that this process has held so far, in 10^9 bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(getattr(psutil.Process().memory_info(), "peak_wset", 0)) / GB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GB if sys.platform == "darwin" else peak * 1024 / GB


def versions(*further: str) -> dict[str, str]:
    """The versions of Python and of the packages that decide what a run does.

    Args:
        further: names of other packages to look up; "missing" where one is not installed.
    """
    names = ("torch", "bitsandbytes", "transformers", "peft", "trl", "accelerate", "datasets")
    installed = {"python": platform.python_version()}
    for name in ("qlora-kit", *names, *further):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "missing"
    return installed


def exact_machine() -> Machine:
    """This machine, computing in fp32: what is compared must not differ by its own rounding."""
    return dataclasses.replace(detect(), compute_dtype="float32")
