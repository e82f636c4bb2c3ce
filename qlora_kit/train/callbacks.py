"""What happens around a training step: metrics are written, and Ctrl-C stops in good order."""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..runs import with_room


class ProgressCallback(TrainerCallback):
    """A bar with loss, tokens a second and time left; and one line a step in metrics.jsonl."""

    def __init__(self, trainer: Any, file: Path, show: bool):
        self.trainer, self.file, self.show = trainer, file, show

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from tqdm.auto import tqdm

        watched = sys.stderr.isatty() or "ipykernel" in sys.modules  # else it is a log
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not self.show,
            mininterval=0.2 if watched else 15,  # seconds
            dynamic_ncols=True,
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        seconds = self.trainer.seconds
        line = {
            "step": state.global_step,
            "loss": logs["loss"],
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "tokens": self.trainer.tokens,
            "seconds": round(seconds, 3),
        }
        with_room(self.file.parent, lambda: self._append(json.dumps(line) + "\n"))
        self.bar.set_postfix(
            {"loss": f"{logs['loss']:.3f}", "tok/s": f"{self.trainer.tokens / seconds:.0f}"},
            refresh=False,
        )
        self.bar.update(state.global_step - self.bar.n)

    def _append(self, line: str) -> None:
        with self.file.open("a", encoding="utf-8") as out:
            out.write(line)

    def restore(self) -> None:
        """Leave the bar as it stands."""
        if hasattr(self, "bar"):
            self.bar.close()


class InterruptCallback(TrainerCallback):
    """The first Ctrl-C finishes the step and saves; the second one is the usual."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._previous)
        print("\nStopping after this step ...", file=sys.stderr, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    def restore(self) -> None:
        """Give Ctrl-C back its usual meaning."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
