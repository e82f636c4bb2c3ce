"""What of a run is as it was when it was trained, what changed since, and how to mend it."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import Machine, detect, versions
from ..models import locate
from . import manifest
from .config import TrainConfig
from .folder import with_room
from .manifest import BASE, NAME, RESULT, Manifest
from .opening import Run, open_run

# Compared by their hashes, or of no weight for what was learned.
_NOT_COMPARED = {"data", "model", "adapter", "output", "save_steps", "report_to"}
_SHOWN = 12  # characters of a hash that people compare
_MEND = {
    "trained weights": "copy the run from a backup, or train again",
    "adapter config": "copy the run from a backup, or train again",
    "data": "put the old file back, or train again on the new one",
    "first adapter": "keep in mind that training it further began from another one",
}
_MEND_BASE = "set 'model' in config.yaml to the weights that it was trained on, or fetch them again"
_MEND_ABSENT_BASE = (
    "set 'model' in config.yaml to where it is; a bundled, a Hub or a GGUF model is fetched or "
    "converted, and compared, by what loads the run"
)


@dataclass(frozen=True)
class Item:
    """One thing that was recorded. state: "same", "changed", "missing" or "differs".

    "differs" is what may differ without harm, such as a version; "missing" is not here to look at.
    """

    name: str
    state: str
    was: str
    now: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Report:
    """What `verify` found; ok where nothing that decides the run's answers changed."""

    run: Path
    made: str
    items: tuple[Item, ...]
    accepted: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing changed, and the result itself is there."""
        return not any(
            item.state == "changed" or (item.state == "missing" and item.name in RESULT)
            for item in self.items
        )

    @property
    def conclusion(self) -> str:
        """The report in one sentence."""
        if not self.ok:
            return "This is not the run as it was trained."
        missing = ", ".join(item.name for item in self.items if item.state == "missing")
        if missing:
            return f"Nothing changed of what is here; not here to compare: {missing}."
        return "Nothing changed."

    def as_json(self) -> dict[str, Any]:
        """The report for a script."""
        return {**asdict(self), "run": str(self.run), "ok": self.ok}


def verify(run: str | Path) -> Report:
    """Compare a run with its manifest.

    Args:
        run: the run folder, wherever it stands now.

    Raises:
        KitError: no run, one without a manifest, or files that cannot be read.
    """
    opened = open_run(run)
    if opened.manifest is None:
        raise KitError(
            f"{opened.folder} has no {NAME}: an earlier version of qlora-kit made it, so it is "
            "unverified. It can be used all the same. To record it as it is now: "
            f"qlora-kit verify {opened.folder} --accept"
        )
    return _report(opened, opened.manifest)


def _report(run: Run, before: Manifest) -> Report:
    items = (*_hashes(run, before), *_settings(run.config, before), *_versions(before))
    return Report(run.folder, before.made, items, tuple(before.accepted))


def accept(run: str | Path, machine: Machine | None = None) -> Report:
    """Take a run as it is now: record its hashes anew, and what had changed.

    Args:
        run: the run folder.
        machine: defaults to this one.

    Returns:
        The report of the run as accepted.

    Raises:
        KitError: no run, files that cannot be read or written, or a run without a manifest whose
            base is not on this machine.
    """
    opened = open_run(run)
    folder, config = opened.folder, opened.config
    day = time.strftime("%Y-%m-%d")
    try:
        before = opened.manifest
    except KitError:  # a damaged one is made anew
        before = None
    if before is None:
        if config.method != "full" and locate(config.model) is None:
            raise KitError(
                f"{config.model}, the base of {folder}, is not ready on this machine, so it cannot "
                "be recorded. Set 'model' in config.yaml to where it is, or load the run once "
                f"(qlora-kit chat {folder}), which fetches or converts it; then accept the run."
            )
        changes = "everything: there was no manifest that could be read"
        now = manifest.make(config, machine or detect(), manifest.hash_inputs(config))
        hashes = now.hashes | manifest.hash_results(folder)
        now = dataclasses.replace(now, made=f"before {day}", commit=None, hashes=hashes)
    else:
        items = _report(opened, before).items
        changes = ", ".join(item.name for item in items if item.state == "changed") or "nothing"
        hashes = before.hashes | _current_hashes(opened, before)
        now = dataclasses.replace(before, hashes=hashes, config=asdict(config))
    now = dataclasses.replace(now, accepted=[*now.accepted, f"{day}: {changes}"])
    with_room(folder, lambda: manifest.write(folder, now), "Nothing was accepted.")
    return verify(folder)


def _current_hashes(run: Run, before: Manifest) -> dict[str, str]:
    """The hashes of what is here now of a run's base, data and results."""
    # The data where config.yaml says, or where they stood; from another folder, "a.jsonl" is
    # perhaps another file.
    named, stood = Path(run.config.data).expanduser(), Path(before.data)
    places = (named, stood) if named.is_absolute() else (stood, named)
    data = next((path for path in places if path.is_file()), named)
    base = manifest.hash_base(locate(run.config.model))
    return manifest.hash_results(run.folder) | base | manifest.hash_inputs(run.config, data)


def _hashes(run: Run, before: Manifest) -> Iterator[Item]:
    now = _current_hashes(run, before)
    for name, was in before.hashes.items():
        is_now = now.get(name, "")
        state = "same" if is_now == was else "changed" if is_now else "missing"
        harmless = name not in (*BASE, *RESULT, "data", "first adapter")
        if state == "changed" and harmless:  # a converted base's config follows the library
            state = "differs"
        mend_base = _MEND_ABSENT_BASE if state == "missing" else _MEND_BASE
        mend = "" if state == "same" else _MEND.get(name, mend_base)
        yield Item(name, state, was[:_SHOWN], is_now[:_SHOWN], mend)
    if RESULT[0] not in before.hashes:
        yield Item(RESULT[0], "missing", "not recorded", "", "the run was killed: train --resume")


def _settings(config: TrainConfig, before: Manifest) -> Iterator[Item]:
    now = asdict(config)
    for name, was in before.config.items():
        if name not in _NOT_COMPARED and now.get(name, was) != was:
            mend = f"set '{name}: {was}' in config.yaml"
            yield Item(f"setting {name}", "changed", str(was), str(now[name]), mend)


def _versions(before: Manifest) -> Iterator[Item]:
    now = versions()
    for name, was in before.versions.items():
        if now.get(name, "missing") != was:
            yield Item(f"version of {name}", "differs", was, now.get(name, "missing"))
