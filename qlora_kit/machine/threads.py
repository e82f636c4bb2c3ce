"""Threads: how idle ones wait, how many cores there are, and functions made ready for them."""

import math
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

# torch and bitsandbytes each load GNU OpenMP, whose idle threads spin. Beside one busy process
# that costs most of the speed; sleeping at once (OMP_WAIT_POLICY=PASSIVE) costs speed on a quiet
# machine. A short spin costs nothing there and keeps half of the speed beside a neighbor.
THREAD_POLICY = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


def apply_thread_policy(environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Set the thread policy where the user has not. Call it before torch is imported.

    Args:
        environ: the environment to set it in.
    """
    for name, value in THREAD_POLICY.items():
        environ.setdefault(name, value)


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """How many cores this process may keep busy.

    A container's share of the processor's time counts, not the host's cores behind it.

    Args:
        cgroup: where the control groups (version 2 or 1) are mounted.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # absent, or "max"
            text = " ".join((cgroup / name).read_text() for name in names)
            quota, period = map(int, text.split())
            if quota > 0:  # version 1 says -1 where there is no limit
                cores = min(cores, math.ceil(quota / period))
    return cores


_MKL_FUNCTIONS = "acos asin atan cos erf erfc exp expm1 log log10 log1p log2 sin sqrt tan tanh"


@cache
def settle_functions() -> None:
    """Call MKL's elementary functions once each, before several threads call them at a time.

    MKL 2024.2, which torch 2.13 brings, chooses each one's kernel in its first call. Where two
    threads make that call together, one of them may use a kernel of far lower accuracy, and a
    training is not repeated to the bit (pytorch/pytorch#188792).
    """
    import torch

    for dtype in (torch.float32, torch.float64):
        for name in _MKL_FUNCTIONS.split():
            getattr(torch, name)(torch.full((1,), 0.5, dtype=dtype))
