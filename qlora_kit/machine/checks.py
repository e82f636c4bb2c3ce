"""`qlora-kit doctor`: what would stop or slow training here, and the line that mends it."""

import os
import shutil
from dataclasses import asdict, dataclass

from .cache import CACHE_VARIABLE, cache_home
from .hardware import GB, Machine, detect, versions
from .threads import THREAD_POLICY


@dataclass(frozen=True)
class Check:
    """One line of `doctor`: status is "ok", "slow" or "fail"; fix is the line that mends it."""

    name: str
    status: str
    detail: str
    fix: str = ""


def doctor() -> list[Check]:
    """Look for what would stop or slow training here, and name the line that mends it.

    Returns:
        One check a subject; any with status "fail" means that training cannot work.
    """
    installed = versions()
    missing = [name for name, version in installed.items() if version == "missing"]
    packages = Check("packages", "ok", ", ".join(f"{n} {v}" for n, v in installed.items()))
    if missing:
        fix = "pip install qlora-kit"
        packages = Check("packages", "fail", f"missing: {', '.join(missing)}", fix)
    if "torch" in missing:
        return [packages]
    machine = detect()
    room = _check_room(machine)
    return [packages, _check_device(machine), _check_bitsandbytes(), *room, _check_threads()]


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
    fix = "pip install --force-reinstall --no-deps bitsandbytes"
    try:
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        block = torch.linspace(-1, 1, 64)
        packed, state = quantize_4bit(block, quant_type="nf4")
        error = (dequantize_4bit(packed, state) - block).abs().max().item()
    except Exception as problem:  # whatever it is, the report must name it
        return Check("bitsandbytes", "fail", f"cannot quantize: {problem!r}", fix)
    detail = f"NF4 works, largest error {error:.3f} of absmax"
    if error < 0.2:  # NF4's widest gap between two levels is 0.30, so half of that is the most
        return Check("bitsandbytes", "ok", detail)
    return Check("bitsandbytes", "fail", detail, fix)


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
