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
from .config import TrainConfig, load_config
from .manifest import BASE, NAME, RESULT, Manifest

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
        return {"run": str(self.run), "ok": self.ok, "made": self.made,
                "items": [asdict(item) for item in self.items],
                "accepted": list(self.accepted)}  # fmt: skip


def verify(run: str | Path) -> Report:
    """Compare a run with its manifest.

    Args:
        run: the run folder, wherever it stands now.

    Raises:
        KitError: no run, one without a manifest, or files that cannot be read.
    """
    folder = Path(run).expanduser()
    if not (folder / "config.yaml").exists():
        raise KitError(f"{folder} is not a run: there is no config.yaml in it.")
    before = manifest.read(folder)
    if before is None:
        raise KitError(
            f"{folder} has no {NAME}: an earlier version of qlora-kit made it, so it is "
            "unverified. It can be used all the same. To record it as it is now: "
            f"qlora-kit verify {folder} --accept"
        )
    config = load_config(folder / "config.yaml")
    items = (*_hashes(folder, config, before), *_settings(config, before), *_around(before))
    return Report(folder, before.made, items, tuple(before.accepted))


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
    folder = Path(run).expanduser()
    if not (folder / "config.yaml").exists():
        raise KitError(f"{folder} is not a run: there is no config.yaml in it.")
    config, day = load_config(folder / "config.yaml"), time.strftime("%Y-%m-%d")
    try:
        before = manifest.read(folder)
    except KitError:
        before = None
    if before is None:
        if config.method != "full" and locate(config.model) is None:
            raise KitError(
                f"{config.model}, the base of {folder}, is not ready on this machine, so it cannot "
                "be recorded. Set 'model' in config.yaml to where it is, or load the run once "
                f"(qlora-kit chat {folder}), which fetches or converts it; then accept the run."
            )
        what = "everything: there was no manifest that could be read"
        now = dataclasses.replace(
            manifest.make(config, machine or detect()), made=f"before {day}", commit=None
        )
    else:
        changed = [item.name for item in verify(folder).items if item.state == "changed"]
        what = ", ".join(changed) or "nothing"
        data = _data(config, before) or Path(config.data)
        found = manifest.hash_base(locate(config.model)) | manifest.hash_inputs(config, data)
        now = dataclasses.replace(before, hashes=before.hashes | found, config=asdict(config))
    now = dataclasses.replace(
        now,
        hashes=now.hashes | manifest.hash_results(folder),
        accepted=[*(before.accepted if before else []), f"{day}: {what}"],
    )
    try:
        manifest.write(folder, now)
    except OSError as problem:
        raise KitError(f"{folder} cannot be written to: {problem.strerror}.") from problem
    return verify(folder)


def _data(config: TrainConfig, before: Manifest) -> Path | None:
    """The data where config.yaml says, or where they stood; from another folder, "a.jsonl" is
    perhaps another file.
    """
    named, stood = Path(config.data).expanduser(), Path(before.data)
    places = (named, stood) if named.is_absolute() else (stood, named)
    return next((path for path in places if path.is_file()), None)


def _hashes(folder: Path, config: TrainConfig, before: Manifest) -> Iterator[Item]:
    now = manifest.hash_results(folder)
    now |= manifest.hash_base(locate(config.model))
    data = _data(config, before)
    now |= manifest.hash_inputs(config, data) if data else {}
    for name, was in before.hashes.items():
        found = now.get(name, "")
        state = "same" if found == was else "changed" if found else "missing"
        harmless = name not in (*BASE, *RESULT, "data", "first adapter")
        if state == "changed" and harmless:  # a converted base's config follows the library
            state = "differs"
        mend_base = _MEND_ABSENT_BASE if state == "missing" else _MEND_BASE
        mend = "" if state == "same" else _MEND.get(name, mend_base)
        yield Item(name, state, was[:_SHOWN], found[:_SHOWN], mend)
    for name in RESULT[:1]:
        if name not in before.hashes:
            yield Item(name, "missing", "not recorded", "", "the run was killed: train --resume")


def _settings(config: TrainConfig, before: Manifest) -> Iterator[Item]:
    now = asdict(config)
    for name, was in before.config.items():
        if name not in _NOT_COMPARED and now.get(name, was) != was:
            mend = f"set '{name}: {was}' in config.yaml"
            yield Item(f"setting {name}", "changed", str(was), str(now[name]), mend)


def _around(before: Manifest) -> Iterator[Item]:
    now = versions()
    for name, was in before.versions.items():
        if now.get(name, "missing") != was:
            yield Item(f"version of {name}", "differs", was, now.get(name, "missing"))
