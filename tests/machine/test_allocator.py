"""Memory that ran out is known by its error, in every library's words."""

import errno
import os
import platform

import numpy as np
import pytest
import torch

from qlora_kit.machine import allocator, hardware, ran_out_of_memory

TOO_MANY = 1 << 60


def bytes_of_python():
    bytearray(TOO_MANY)


def array_of_numpy():
    np.empty(TOO_MANY, np.uint8)


def tensor_of_torch():
    torch.empty(TOO_MANY, dtype=torch.uint8)


def refusal_of_the_system():
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def refusal_of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.parametrize(
    "take",
    [
        bytes_of_python,
        array_of_numpy,
        tensor_of_torch,
        refusal_of_the_system,
        refusal_of_a_gpu,
    ],
)
def test_memory_that_ran_out_is_known(take):
    with pytest.raises((MemoryError, OSError, RuntimeError)) as caught:
        take()
    assert ran_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError("It looks like the config file is not a valid JSON file."),
        RuntimeError("You set `ignore_mismatched_sizes` to `False`, thus raising an error."),
        KeyError("quantization_config"),
    ],
)
def test_other_errors_are_not_taken_for_it(problem):
    assert not ran_out_of_memory(problem)


def test_freed_memory_is_kept_where_malloc_can():
    assert allocator.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    assert hardware.peak_rss_gb() > 0.01
