"""Micro-batches side by side, each on its own cores.

One product on all cores waits at its end for the slowest of them, and one beside a busy
neighbor waits long. Threads that each take the next micro-batch never wait for each other, and
what torch does on one core anyway they do on all.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

WORKERS = 2  # each holds a micro-batch's activations, so that the budget is split among them


def accumulate(
    parameters: Sequence[torch.nn.Parameter],
    loss_of: Callable[[Any], torch.Tensor],
    batches: Sequence[Any],
) -> float:
    """Add the gradients of all micro-batches to `grad`, in their order, and sum their losses.

    What comes out does not depend on which thread is done first.

    Args:
        parameters: what is trained.
        loss_of: a micro-batch's loss; must draw no random numbers.
        batches: the micro-batches, the largest first.
    """
    threads = torch.get_num_threads()

    def work(batch: Any) -> tuple[float, tuple[torch.Tensor, ...]]:
        loss = loss_of(batch)
        return loss.item(), torch.autograd.grad(loss, parameters)

    total = 0.0
    try:
        with ThreadPoolExecutor(
            WORKERS, initializer=torch.set_num_threads, initargs=(max(1, threads // WORKERS),)
        ) as pool:
            for loss, gradients in pool.map(work, batches):
                total += loss
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if parameter.grad is None:
                        parameter.grad = gradient
                    else:
                        parameter.grad += gradient
    finally:
        torch.set_num_threads(threads)  # MKL's number is the process's, not the thread's
    return total
