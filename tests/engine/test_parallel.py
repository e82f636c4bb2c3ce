import signal
import threading
import time

import pytest
import torch

from qlora_kit.engine import accumulate, parallel
from qlora_kit.engine.parallel import WORKERS
from qlora_kit.machine import threads as threads_file


def model_and_batches():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(50, 50))
    return parameter, [torch.randn(20, 50) * 10**n for n in range(-3, 4)]


def test_gradients_are_summed_in_order_whoever_is_done_first():
    parameter, batches = model_and_batches()
    summed = {}
    for slow in range(3):
        parameter.grad = None

        def loss_of(batch, slow=slow):
            if batch is batches[slow]:
                time.sleep(0.05)
            return (batch @ parameter).square().sum()

        loss = accumulate([parameter], loss_of, batches)
        summed[slow] = loss, parameter.grad
    parameter.grad = None
    expected = 0.0
    for batch in batches:
        each = (batch @ parameter).square().sum()
        each.backward()
        expected += each.item()
    for loss, gradient in summed.values():
        assert loss == summed[0][0]
        assert torch.equal(gradient, summed[0][1])
        torch.testing.assert_close(gradient, parameter.grad)
        assert loss == pytest.approx(expected, rel=1e-6)


def test_micro_batches_run_at_the_same_time():
    parameter, batches = model_and_batches()
    meeting = threading.Barrier(WORKERS, timeout=10)

    def loss_of(batch):
        meeting.wait()  # alone, it would break
        return (batch @ parameter).sum()

    accumulate([parameter], loss_of, batches[:WORKERS])
    assert not meeting.broken


def test_an_error_reaches_the_caller_and_the_threads_are_as_before():
    parameter, batches = model_and_batches()
    threads = torch.get_num_threads()

    def loss_of(batch):
        raise ValueError("bad micro-batch")

    with pytest.raises(ValueError, match="bad micro-batch"):
        accumulate([parameter], loss_of, batches)
    assert torch.get_num_threads() == threads


def test_all_steps_run_in_the_same_threads():
    """Each new thread may get a heap of its own, and what another has freed it cannot take."""
    parameter, batches = model_and_batches()
    seen = set()

    def loss_of(batch):
        seen.add(threading.current_thread())  # an ident would be used again
        return (batch @ parameter).sum()

    for _ in range(10):
        accumulate([parameter], loss_of, batches)
    assert len(seen) <= WORKERS


def test_an_interruption_waits_for_the_running_micro_batches():
    parameter, batches = model_and_batches()
    begun, ended = [], []

    def loss_of(batch):
        begun.append(batch)
        if len(begun) == 1:
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.2)
        ended.append(batch)
        return (batch @ parameter).sum()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            accumulate([parameter], loss_of, batches)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(ended) == len(begun) < len(batches)


def test_an_error_waits_for_the_other_micro_batches():
    parameter, batches = model_and_batches()
    ended = []

    def loss_of(batch):
        if batch is batches[0]:
            raise ValueError("bad micro-batch")
        time.sleep(0.1)
        ended.append(batch)
        return (batch @ parameter).sum()

    with pytest.raises(ValueError, match="bad micro-batch"):
        accumulate([parameter], loss_of, batches[:WORKERS])
    assert len(ended) == WORKERS - 1


def test_no_function_of_mkl_is_first_called_by_two_threads(monkeypatch):
    """Such a first call gave wrong digits in some fresh processes (pytorch/pytorch#188792)."""
    parameter, batches = model_and_batches()
    calls, cosine = [], torch.cos
    threads_file.settle_functions.cache_clear()
    parallel._pool.cache_clear()

    def recorded(x):
        calls.append((threading.current_thread(), x.dtype))
        return cosine(x)

    monkeypatch.setattr(torch, "cos", recorded)
    for _ in range(2):
        accumulate([parameter], lambda batch: torch.cos(batch @ parameter).sum(), batches[:WORKERS])
    here = threading.main_thread()
    assert calls[:2] == [(here, torch.float32), (here, torch.float64)]
    assert len(calls) == 2 + 2 * WORKERS
