"""Micro-batches side by side, each on its own cores.

One product on all cores waits at its end for the slowest of them, and one beside a busy
neighbor waits long. Threads that each take the next micro-batch never wait for each other, and
what torch does on one core anyway they do on all.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TYPE_CHECKING, Any

from ..machine import settle_functions

if TYPE_CHECKING:
    import torch

WORKERS = 2  # each holds a micro-batch's activations, so that the budget is split among them


def workers() -> int:
    """How many micro-batches run side by side here: one where torch has a single thread.

    The planner asks, too, and it has loaded torch only where there is a machine to look at.
    """
    import torch

    return WORKERS if torch.get_num_threads() >= WORKERS else 1


def accumulate(
    parameters: "Sequence[torch.nn.Parameter]",
    loss_of: "Callable[[Any], torch.Tensor]",
    batches: Sequence[Any],
) -> float:
    """Add the gradients of all micro-batches to `grad`, in their order, and sum their losses.

    What comes out does not depend on which thread is done first.

    Args:
        parameters: what is trained.
        loss_of: a micro-batch's loss, called by several threads at once: it must draw no random
            numbers, and its model have no hooks that one thread sets for another to meet.
        batches: the micro-batches, the largest first.

    Returns:
        The sum of their losses.
    """
    import torch

    threads = torch.get_num_threads()

    def work(batch: Any) -> tuple[float, tuple[torch.Tensor, ...]]:
        torch.set_num_threads(max(1, threads // WORKERS))
        loss = loss_of(batch)
        return loss.item(), torch.autograd.grad(loss, parameters)

    total = 0.0
    pool = _pool(os.getpid())
    futures = deque(pool.submit(work, batch) for batch in batches)
    try:
        while futures:
            loss, gradients = futures[0].result()
            futures.popleft()  # after, so that whoever interrupts waits for it, too
            total += loss
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient
                else:
                    parameter.grad += gradient
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
        torch.set_num_threads(threads)  # MKL's number is the process's, not the thread's
    return total


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The same threads at every step: what malloc keeps for one of them no other can take."""
    settle_functions()
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="micro-batch")
