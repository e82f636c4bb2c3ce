"""Trains in forked children that are killed, so that dozens of deaths take seconds, not minutes.

Run as a script by test_killed.py: forking is only safe where no thread pool was ever started.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

CALLS = ("fsync", "rename", "replace")  # what a save is made of; a kill may fall between any two
SETTINGS = {
    "plain": {},
    "dropout, grouped": {"dropout": 0.1, "group_by_length": True},
    "packed": {"packing": True, "dropout": 0.1},
    "all weights": {"method": "full", "precision": "32bit"},
}


def live(config, die_at=None, log=None):
    """Train in a child, resuming; it dies before its die_at-th call, or writes down the calls."""
    child = os.fork()
    if child:
        return child
    status, calls = 1, 0
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)

        def counted(call):
            def wrapper(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return wrapper

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        from qlora_kit.train import fine_tune

        fine_tune(config, resume=True, progress=False)
        if log:
            log.write_text(str(calls))
        status = 0
    except BaseException as problem:  # the parent must hear of it
        print(f"child: {problem!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def died(child):
    """Whether a child was killed; one that ended by itself must have ended well."""
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise SystemExit("a child failed; see above")
    return os.WIFSIGNALED(status)


def result(folder):
    """The bytes of what was trained."""
    [weights] = folder.glob("*model.safetensors")
    return weights.read_bytes()


class Runs:
    """One run after the other, each killed and gone on with until it ends."""

    def __init__(self, make, home):
        self.make, self.home, self.kills, self.ended = make, home, 0, [0]

    def live(self, die_at=None, wait=None):
        """One life of the present run: killed at a call, after some seconds, or left alone."""
        folder = self.home / str(len(self.ended))
        child = live(self.make(folder), die_at)
        if wait is not None:
            time.sleep(wait)
            os.kill(child, signal.SIGKILL)
        killed = died(child)
        self.kills += killed
        if not killed or (folder / "run.json").exists():  # killed on its way out, all done
            self.ended.append(result(folder))


def main(model, rows, home, seed, by_time, by_call):
    """Kill by_time times at random moments and by_call times inside saves; print what came."""
    import datasets  # noqa: F401  (warm: a child must not spend its life importing)
    import matplotlib.pyplot  # noqa: F401
    import peft  # noqa: F401
    import torch

    from qlora_kit.runs import TrainConfig

    torch.set_num_threads(1)
    chance, report = random.Random(seed), []
    for name, setting in SETTINGS.items():

        def make(folder, setting=setting):
            return TrainConfig(
                data=rows, output=str(folder), model=model, max_steps=8, rank=4,
                token_budget=128, save_steps=2, compute_dtype="float32", **setting,
            )  # fmt: skip

        began, log = time.monotonic(), home / "calls"
        assert not died(live(make(home / name / "whole"), log=log)), name
        calls, seconds = int(log.read_text()), time.monotonic() - began
        runs = Runs(make, home / name)
        while runs.kills < by_time:
            runs.live(wait=chance.uniform(0, 1.1 * seconds))
        while runs.kills < by_time + by_call:  # a life that goes on has fewer calls left to die at
            runs.live(die_at=chance.randint(1, calls))
        if len(runs.ended) == 1 or (home / name / str(len(runs.ended))).exists():
            runs.live()
        want = result(home / name / "whole")
        report.append({
            "setting": name, "kills": runs.kills, "calls": calls, "seconds": round(seconds, 2),
            "ended": len(runs.ended) - 1, "same": all(end == want for end in runs.ended[1:]),
        })  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
