"""A bridge to lm-evaluation-harness: its tasks, or your own, on an adapter, also offline."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..data import write_jsonl
from ..machine import renew_pyarrow, write_text
from ..models import Model, Tokenizer, errors_only, quiet
from .likelihood import ProbeItem

_RESAMPLES = 100  # above 0, or the harness leaves out every error; accuracy's is a formula


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task; error is the harness's standard error, or None."""

    task: str
    metric: str
    value: float
    error: float | None


def write_task(items: Sequence[ProbeItem], folder: str | Path, name: str) -> Path:
    """Write multiple-choice questions as a task that the harness runs without a network.

    Args:
        items: from `read_probe`, or your own.
        folder: where NAME.yaml and NAME.jsonl go.
        name: of the task.

    Returns:
        The folder, for `run_tasks`.

    Raises:
        KitError: no questions, or a name that is no plain word.
    """
    import yaml

    if not items:
        raise KitError("A task needs at least one question.")
    if not name.replace("_", "").replace("-", "").isalnum():
        raise KitError(f"A task's name is letters, digits, - and _, not {name!r}.")
    folder = Path(folder).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    write_jsonl([asdict(item) for item in items], data)
    means = [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True}
        for metric in ("acc", "acc_norm")
    ]
    task = {
        "task": name,
        "dataset_path": "json",
        "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": means,
        "metadata": {"version": 1},
    }
    write_text(folder / f"{name}.yaml", yaml.safe_dump(task, sort_keys=False))
    return folder


def run_tasks(
    model: Model,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    folder: str | Path | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    batch_size: int = 8,
    chat_template: bool = True,
) -> list[TaskScore]:
    """Score a loaded model, with or without adapter, on tasks of lm-evaluation-harness.

    Args:
        model, tokenizer: from `runs.load_run` or `models.load`. The harness is handed the
            model itself, so its 4-bit weights and adapter are what is measured.
        tasks: names; those of the Hub need a network.
        folder: with your own tasks' YAML files, for example from `write_task`.
        limit: questions of each task; None takes all.
        few_shot: worked examples before each question; None is what the task says.
        batch_size: questions at a time.
        chat_template: ask as the model was trained to be asked; False for a model without one,
            and to compare with published numbers of base models.

    Returns:
        Every metric of every task.

    Raises:
        KitError: the harness is not installed, a task is unknown, or its data cannot be read.

    Source: https://github.com/EleutherAI/lm-evaluation-harness
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise KitError("lm-evaluation-harness is not installed: pip install 'qlora-kit[harness]'")
    renew_pyarrow()
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    manager = _task_manager(tasks, folder)
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown or not tasks:
        where = f" nor in {folder}" if folder else "; --folder names a folder of your own"
        raise KitError(f"No task {', '.join(unknown) or 'given'} in the harness{where}.")
    with quiet(), errors_only("lm_eval", "accelerate"), _no_bars(), _no_questions():
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        try:
            results = lm_eval.simple_evaluate(
                model=wrapped,
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                num_fewshot=few_shot,
                bootstrap_iters=_RESAMPLES,
                log_samples=False,
                apply_chat_template=chat_template,
            )["results"]
        except (OSError, ConnectionError, ValueError) as problem:
            raise KitError(f"The harness could not run {', '.join(tasks)}: {problem}") from problem
    return [score for task, table in results.items() for score in _scores(task, table)]


def _task_manager(tasks: Sequence[str], folder: str | Path | None) -> Any:
    """Your tasks alone where no others are asked for: to read the harness's takes seconds."""
    from lm_eval.tasks import TaskManager

    if folder:
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if set(tasks) <= set(own.all_subtasks):  # a group may name tasks of the harness
            return own
    return TaskManager(include_path=str(folder) if folder else None)


@contextmanager
def _no_questions() -> Iterator[None]:
    """Inside, the harness forks no process, and does not ask git and pip about the machine (4 s).

    There is no switch for the latter, so its functions are replaced; where one is gone, that is an
    error.
    """
    from lm_eval import evaluator

    git, environment = evaluator.get_git_commit_hash, evaluator.add_env_info
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"  # it would fork a process with a model in it
    evaluator.get_git_commit_hash = lambda: None
    evaluator.add_env_info = lambda results: None
    try:
        yield
    finally:
        evaluator.get_git_commit_hash, evaluator.add_env_info = git, environment
        os.environ.pop("DISABLE_MULTIPROC")
        if before is not None:
            os.environ["DISABLE_MULTIPROC"] = before


@contextmanager
def _no_bars() -> Iterator[None]:
    """Inside, the library that reads the tasks' data shows no bars."""
    import datasets
    from datasets.utils import are_progress_bars_disabled

    bars = not are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()


def _scores(task: str, table: dict[str, Any]) -> list[TaskScore]:
    """The harness names metrics "acc,none" and their errors "acc_stderr,none"."""
    scores = []
    for key, value in table.items():
        metric, _, _ = key.partition(",")
        if "," not in key or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = table.get(key.replace(",", "_stderr,"))
        error = float(error) if isinstance(error, int | float) else None
        scores.append(TaskScore(task, metric, float(value), error))
    return scores
