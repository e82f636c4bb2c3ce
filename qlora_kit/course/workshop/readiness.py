"""Is this machine ready for the workshop? In under a minute: yes, or what to do."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ... import KitError
from ...data import bundled_data
from ...machine import Check, cache_home, doctor, peak_rss_gb, versions
from ...models import BUNDLED, MINILM, bundled_folder

_AGAIN = "python install.py, in the workshop's folder"
_COURSE = ("ipykernel", "ipywidgets", "jupyterlab", "papermill", "scikit-learn")
_MINUTE = 60


def check_machine(folder: Path) -> list[Check]:
    """All that the first lesson needs, tried out: packages, model, disk, and a real answer.

    Args:
        folder: where the lessons will run.

    Returns:
        What `doctor` says and the workshop's own checks, each with the line that mends it.
    """
    checks = [_in_a_room(check) for check in doctor()]
    checks += [_packages(), *_models(), _data(), _writable(folder)]
    if all(check.status != "fail" for check in checks):
        checks.append(_answer())
    return checks


def readiness_line(checks: list[Check]) -> str:
    """What to tell the student.

    Args:
        checks: from `check_machine`.

    Returns:
        "ready", or "not ready" with the number of things to do.
    """
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        things = "one thing" if len(failed) == 1 else f"{len(failed)} things"
        return f"not ready: {things} to do"
    return "ready"


def _in_a_room(check: Check) -> Check:
    """The doctor's word, with what mends it where there is no network."""
    if check.name in ("packages", "bitsandbytes") and check.status == "fail":
        return replace(check, fix=_AGAIN)
    if check.name == "memory" and check.status != "ok":
        return replace(check, fix="close other programs, above all browser tabs")
    return check


def _packages() -> Check:
    installed = versions(*_COURSE)
    missing = [name for name in _COURSE if installed[name] == "missing"]
    if missing:
        return Check("course", "fail", f"missing: {', '.join(missing)}", _AGAIN)
    return Check("course", "ok", "notebooks can run")


def _models() -> list[Check]:
    checks = []
    for bundled in (*BUNDLED.values(), MINILM):
        folder = cache_home() / bundled.name
        fetch = f"{_AGAIN} (with a network: qlora-kit models fetch {bundled.name}"
        if not folder.is_dir():
            checks.append(Check(bundled.name, "fail", f"{folder} is not there", f"{fetch})"))
            continue
        try:
            checks.append(Check(bundled.name, "ok", f"whole, in {bundled_folder(bundled)}"))
        except KitError:
            fix = f"remove {folder}, then {fetch} --force)"
            checks.append(Check(bundled.name, "fail", f"{folder} is damaged", fix))
    return checks


def _data() -> Check:
    try:
        return Check("data", "ok", str(bundled_data("support").parent))
    except KitError as problem:
        return Check("data", "fail", str(problem), _AGAIN)


def _writable(folder: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("folder", "ok", f"lessons can write to {folder.resolve()}")
    except OSError as problem:
        fix = "cd to a folder of your own, such as qlora-course"
        return Check("folder", "fail", f"{folder} cannot be written to: {problem}", fix)


def _answer() -> Check:
    """Load the model in 4 bits and let it speak: what every lesson does."""
    from ...engine import fast_generation
    from ...evaluate import generate
    from ...models import load

    began = time.perf_counter()
    try:
        model, tokenizer = load("smollm2")
        question = [{"role": "user", "content": "What is a garden?"}]
        with fast_generation(model):
            [answer] = generate(model, tokenizer, [question], max_new_tokens=8)
    except Exception as problem:  # whatever it is, the student must be told
        return Check("answer", "fail", f"the model does not answer: {problem}", _AGAIN)
    seconds = time.perf_counter() - began
    detail = f"{answer.text!r} ..., {seconds:.0f} s with loading, {peak_rss_gb():.1f} GB"
    if seconds > _MINUTE:
        return Check("answer", "slow", detail, "close other programs; plug the charger in")
    return Check("answer", "ok", detail)
