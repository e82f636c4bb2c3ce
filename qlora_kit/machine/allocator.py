"""What malloc keeps and gives back (glibc can be told, other C libraries ignore it), or lacks."""

import errno
import gc

# In the words of the system, of torch on a CPU (Linux, elsewhere) and of CUDA.
_NO_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "out of memory",
)


def ran_out_of_memory(problem: BaseException) -> bool:
    """Whether an error tells that memory ran out; each library has an error of its own for it.

    Args:
        problem: as it was raised: a MemoryError, torch's RuntimeError or the system's OSError.
    """
    if isinstance(problem, MemoryError) or getattr(problem, "errno", None) == errno.ENOMEM:
        return True
    return any(words in str(problem).lower() for words in _NO_MEMORY)


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
