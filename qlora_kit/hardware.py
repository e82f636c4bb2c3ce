"""What this machine is: its device, the dtype it is fast in, free memory, threads."""

import gc
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GB = 1e9
CACHE_VARIABLE = "QLORA_KIT_CACHE"
COURSE_VARIABLE = "QLORA_KIT_COURSE_RUN"  # set in the kernels of `qlora-kit course run`

# torch and bitsandbytes each load GNU OpenMP, whose idle threads spin. Beside one busy process
# that costs most of the speed; sleeping at once (OMP_WAIT_POLICY=PASSIVE) costs speed on a quiet
# machine. A short spin costs nothing there and keeps half of the speed beside a neighbor.
THREAD_POLICY = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


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

    def __str__(self) -> str:
        memory = f"{self.free_memory_gb:.1f} of {self.total_memory_gb:.1f} GB free"
        if self.device == "cuda":
            memory += f", GPU {self.gpu_free_gb:.1f} of {self.gpu_total_gb:.1f} GB free"
        return f"{self.device} ({self.name}), {self.compute_dtype}, {self.cores} cores, {memory}"


@dataclass(frozen=True)
class Check:
    """One line of `doctor`: status is "ok", "slow" or "fail"; fix is the line that mends it."""

    name: str
    status: str
    detail: str
    fix: str = ""


def apply_thread_policy(environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Set the thread policy where the user has not. Call it before torch is imported.

    Args:
        environ: the environment to set it in.
    """
    for name, value in THREAD_POLICY.items():
        environ.setdefault(name, value)


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
    if limit not in ("ALL", "DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE_FP16") and not (
        limit.startswith(("AVX512_CORE_AMX", "AVX10"))
    ):
        return "float32"
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if fast else "float32"


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

    from .parallel import settle_functions

    settle_functions()
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


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def cache_home() -> Path:
    """Where converted models are kept: $QLORA_KIT_CACHE, else the user's cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "qlora-kit"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide what a run does."""
    names = ("torch", "bitsandbytes", "transformers", "peft", "trl", "accelerate", "datasets")
    found = {"python": platform.python_version()}
    for name in ("qlora-kit", *names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def doctor() -> list[Check]:
    """Look for what would stop or slow training here, and name the line that mends it.

    Returns:
        One check a subject; any with status "fail" means that training cannot work.
    """
    found = versions()
    missing = [name for name, version in found.items() if version == "missing"]
    checks = [
        Check("packages", "ok", ", ".join(f"{n} {v}" for n, v in found.items()))
        if not missing
        else Check("packages", "fail", f"missing: {', '.join(missing)}", "pip install qlora-kit")
    ]
    if "torch" in missing:
        return checks
    machine = detect()
    return [*checks, _check_device(machine), _check_bitsandbytes(), *_check_room(machine),
            _check_threads()]  # fmt: skip


def _check_device(machine: Machine) -> Check:
    detail = str(machine)
    if machine.device != "cpu":
        return Check("device", "ok", detail)
    if shutil.which("nvidia-smi"):
        fix = "pip install --force-reinstall torch  # this torch does not see the NVIDIA GPU"
        return Check("device", "slow", detail, fix)
    if machine.compute_dtype == "float32":
        detail += "; no AVX512-BF16 or AMX, so 16-bit products are avoided"
    return Check("device", "ok", detail)


def _check_bitsandbytes() -> Check:
    """Quantize and restore a block: "No GPU found" and broken builds show up here."""
    try:
        import torch

        functional = importlib.import_module("bitsandbytes.functional")
        block = torch.linspace(-1, 1, 64)
        packed, state = functional.quantize_4bit(block, quant_type="nf4")
        error = (functional.dequantize_4bit(packed, state) - block).abs().max().item()
    except Exception as problem:  # whatever it is, the report must name it
        fix = "pip install --force-reinstall --no-deps bitsandbytes"
        return Check("bitsandbytes", "fail", f"cannot quantize: {problem}", fix)
    status = "ok" if error < 0.2 else "fail"
    fix = "" if status == "ok" else "pip install --force-reinstall --no-deps bitsandbytes"
    return Check("bitsandbytes", status, f"NF4 works, largest error {error:.3f} of absmax", fix)


def _check_room(machine: Machine) -> list[Check]:
    home = cache_home()
    parent = next(path for path in (home, *home.parents) if path.exists())
    disk = shutil.disk_usage(parent).free / GB
    memory = f"{machine.free_memory_gb:.1f} GB free"
    if machine.free_memory_gb >= 3:
        room = Check("memory", "ok", memory)
    else:
        fix = "qlora-kit train DATA --output RUN --token-budget 256"
        room = Check("memory", "slow", f"{memory}; training the bundled model takes 3 GB", fix)
    space = f"{disk:.1f} GB free in {parent}"
    if disk >= 1:
        return [room, Check("disk", "ok", space)]
    fix = f"export {CACHE_VARIABLE}=/a/folder/with/room"
    return [room, Check("disk", "fail", f"{space}; the bundled model takes 0.5 GB", fix)]


def _check_threads() -> Check:
    patient = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    if patient or os.environ.get("GOMP_SPINCOUNT", "").isdigit():
        return Check("threads", "ok", "idle OpenMP threads soon sleep")
    detail = "idle OpenMP threads spin, which costs most of the speed beside a busy neighbor"
    name, value = next(iter(THREAD_POLICY.items()))
    return Check("threads", "slow", detail, f"export {name}={value}")


def doctor_report(checks: list[Check]) -> dict[str, object]:
    """The doctor's findings in a form for scripts.

    Args:
        checks: from `doctor`.

    Returns:
        {"ok", "versions", "machine", "checks"}.
    """
    return {
        "ok": all(check.status != "fail" for check in checks),
        "versions": versions(),
        "machine": asdict(detect()) if versions()["torch"] != "missing" else None,
        "checks": [asdict(check) for check in checks],
    }


def release_memory() -> None:
    """Collect garbage and return the memory that malloc holds for nobody to the system."""
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Return the memory that malloc holds for nobody to the system."""
    _malloc("malloc_trim", 0)


def keep_freed_memory() -> bool:
    """Let malloc keep the large tensors that each training step frees and takes again.

    Returned to the system and taken anew, every page faults at every step.

    Returns:
        Whether this C library could be told so (glibc can).
    """
    settings = {-3: 1 << 25, -1: 1 << 30, -2: 1 << 26}  # M_{MMAP,TRIM}_THRESHOLD, M_TOP_PAD
    return all(_malloc("mallopt", name, value) == 1 for name, value in settings.items())


def share_freed_memory() -> None:
    """Let the threads that start from now on share two of malloc's heaps.

    By default many threads have one each, and what one has freed no other can take: a server
    that reads long prompts in a pool of threads would grow with each of them.
    """
    _malloc("mallopt", -8, 2)  # M_ARENA_MAX of malloc.h


def _malloc(function: str, *arguments: int) -> int:
    """Call what glibc adds to malloc; 0 where another C library has no such function."""
    import ctypes

    try:
        return int(getattr(ctypes.CDLL("libc.so.6"), function)(*arguments))
    except (OSError, AttributeError):
        return 0
