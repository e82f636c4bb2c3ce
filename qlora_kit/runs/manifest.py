"""The run manifest: hashes of all that a run was made from and of what came out of it.

manifest.json is written when a run begins (base, data, settings) and again when it ends (the
adapter). `require_match` is what everything calls that loads a run.
"""

import dataclasses
import hashlib
import json
import platform
import subprocess
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .. import KitError
from ..machine import Machine, digest, versions, while_unchanged, write_text
from ..models import fingerprint, locate, weight_files
from .config import TrainConfig

NAME = "manifest.json"
BASE = ("base weights", "tokenizer", "chat template")  # with others an adapter is another model
RESULT = ("trained weights", "adapter config")
_VERSION = 1
_VOLATILE = {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}


@dataclass(frozen=True)
class Manifest:
    """What a run was made from, and what came out.

    hashes: by what was hashed. base, data: where they were. template: the chat template's text.
    config: the settings. seeds: by what they seed. commit: git's, when there was one.
    accepted: what a person accepted as changed, and when.
    """

    made: str
    hashes: dict[str, str]
    base: str
    data: str
    template: str
    config: dict[str, Any]
    versions: dict[str, str]
    machine: str
    seeds: dict[str, int]
    commit: str | None = None
    accepted: list[str] = field(default_factory=list)

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


def read(run: Path) -> Manifest | None:
    """A run's manifest; None when it has none, as runs of earlier versions.

    Args:
        run: the run folder.

    Raises:
        KitError: one that is damaged, or of a later version.
    """
    from pydantic import TypeAdapter

    path = run / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("version")
        if version != _VERSION:
            raise KitError(
                f"{path} is of version {str(version)[:20]}: update qlora-kit to read it."
            )
        if content.pop("sha256") != _hash(content):
            raise ValueError("it does not match its own hash")
        return TypeAdapter(Manifest).validate_python(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise KitError(
            f"{path} is damaged ({problem}), so the run cannot be checked. Copy it from a backup, "
            f"or take the run as it is: qlora-kit verify {run} --accept"
        ) from problem


def write(run: Path, manifest: Manifest) -> None:
    """Write a run's manifest, whole or not at all.

    Args:
        run: the run folder.
        manifest: what to write.
    """
    content = asdict(manifest)
    record = {"version": _VERSION, "sha256": _hash(content), **content}
    write_text(run / NAME, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def make(config: TrainConfig, machine: Machine, inputs: dict[str, str]) -> Manifest:
    """The manifest of a run that begins now.

    Args:
        config: the run; its base is on this machine.
        machine: trains it.
        inputs: from `hash_inputs`.
    """
    base, data = locate(config.model), Path(config.data).expanduser()
    hashes = hash_base(base) | inputs
    return Manifest(
        made=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        hashes=hashes,
        base=str(base or ""),
        data=str(data.absolute()),
        template=chat_template(base) if base else "",
        config=asdict(config),
        versions=versions(),
        machine=f"{platform.platform()}, {machine}",
        seeds={"data order, adapters and dropout": config.seed},
        commit=_commit(),
    )


def begin_manifest(run: Path, now: Manifest, resumed: bool) -> None:
    """Record what a run begins from; a run that goes on must go on from the same.

    Args:
        run: the run folder.
        now: from `make`.
        resumed: from a checkpoint.

    Raises:
        KitError: base or data are no longer what the run began with.
    """
    before = read(run) if resumed else None
    if before is None:
        write(run, now)
        return
    changed = changed_hashes(before, now.hashes)
    if changed:
        raise KitError(
            f"{run} cannot go on: {' and '.join(changed)} changed since it began, so it would be "
            f"neither run. Put them back, begin a new run, or take them as they are: "
            f"qlora-kit verify {run} --accept"
        )
    moved = {name for name in now.versions if before.versions.get(name) != now.versions[name]}
    if moved:
        warnings.warn(
            f"{', '.join(sorted(moved))} changed version since the run began; it goes on, but not "
            "to the last bit as it would have.",
            stacklevel=2,
        )
    inputs = {name: value for name, value in before.hashes.items() if name not in RESULT}
    write(run, dataclasses.replace(before, hashes=inputs))


def finish_manifest(run: Path) -> None:
    """Record what came out of a run.

    Args:
        run: the run folder, with its adapter or model.
    """
    manifest = read(run)
    if manifest is not None:
        write(run, dataclasses.replace(manifest, hashes=manifest.hashes | hash_results(run)))


def hash_base(folder: Path | None) -> dict[str, str]:
    """The hashes of a base model: its weights, vocabulary, chat template and config.

    Args:
        folder: of the model; None when it is not on this machine.

    Raises:
        KitError: weights that are not sound.
    """
    if folder is None:
        return {}
    config = _json(folder / "config.json")
    lasting = {name: value for name, value in config.items() if name not in _VOLATILE}
    return {
        "base weights": fingerprint(weight_files(folder)),
        "base config": _hash(lasting),
        "tokenizer": _vocabulary(folder),
        "chat template": _hash(chat_template(folder)),
    }


def hash_inputs(config: TrainConfig, data: Path | None = None) -> dict[str, str]:
    """The hashes of a run's data, and of the adapter that it trains further.

    Args:
        config: the run.
        data: where its data are; None for where they were at its beginning.
    """
    data = (data or Path(config.data)).expanduser()
    try:
        hashes = {"data": digest(data)} if data.is_file() else {}
    except OSError as problem:
        raise KitError(f"{data} cannot be read: {problem.strerror or problem}.") from problem
    if config.adapter:
        first = Path(config.adapter).expanduser() / "adapter_model.safetensors"
        if first.is_file():
            hashes["first adapter"] = fingerprint([first])
    return hashes


def hash_results(run: Path) -> dict[str, str]:
    """The hashes of what a run left: an adapter and its config, or a whole model.

    Args:
        run: the run folder.

    Raises:
        KitError: weights that are not sound.
    """
    adapter = run / "adapter_model.safetensors"
    if adapter.is_file():
        config = _json(run / "adapter_config.json")
        config.pop("base_model_name_or_path", None)  # where the base was, not which one
        try:
            return {"trained weights": fingerprint([adapter]), "adapter config": _hash(config)}
        except KitError as problem:
            raise KitError(f"The adapter in {run} cannot be loaded: {problem}") from problem
    try:
        return {"trained weights": fingerprint(weight_files(run))}
    except KitError:
        if (run / "model.safetensors").is_file():
            raise
        return {}


def chat_template(folder: Path) -> str:
    """The chat template of a model's folder; "" when it has none.

    Args:
        folder: of the model.
    """
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except OSError:
        template = _json(folder / "tokenizer_config.json").get("chat_template") or ""
        return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def require_match(run: Path, base: str) -> None:
    """Refuse a run whose base, or whose adapter, is not what it was when it was trained.

    Everything that loads a run calls this, most through `Run.load`. A run without a manifest
    passes with a warning, and one whose base is not here yet without.

    Args:
        run: the run folder.
        base: the model that the adapter is to be put on.

    Raises:
        KitError: something changed; the message says what, and how to go on all the same.
    """
    manifest = read(run)
    if manifest is None:
        warnings.warn(
            f"{run} has no {NAME} (an earlier version made it), so nobody can say whether its base "
            f"and adapter are what they were; going on unverified. To write one: "
            f"qlora-kit verify {run} --accept",
            stacklevel=2,
        )
        return
    now = hash_results(run)
    if manifest.config.get("method") != "full":
        now |= hash_base(locate(base))
    different = changed_hashes(manifest, now)
    changed = [name for name in (*BASE, *RESULT) if name in different]
    if changed:
        raise KitError(
            f"{run} is not what was trained: {' and '.join(changed)} changed since. "
            f"'qlora-kit verify {run}' says how to mend it. To use it as it is all the same: "
            f"qlora-kit verify {run} --accept"
        )


def changed_hashes(manifest: Manifest, now: dict[str, str]) -> list[str]:
    """What has another hash than it had; what either side does not know is no change.

    Args:
        manifest: as it was.
        now: hashes by what was hashed.
    """
    return [name for name, value in now.items() if manifest.hashes.get(name, value) != value]


def _vocabulary(folder: Path) -> str:
    """The hash of what decides which tokens a text becomes."""
    fast = folder / "tokenizer.json"
    fast_hash = _fast_vocabulary(fast) if fast.is_file() else None
    if fast_hash is not None:
        return fast_hash
    names = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")
    return _hash([digest(folder / name) for name in names if (folder / name).is_file()])


@while_unchanged
def _fast_vocabulary(path: Path) -> str | None:
    """The hash of a tokenizer.json, without what a version of the library adds to it."""
    content = _json(path)
    model = content.get("model")
    if not isinstance(model, dict):
        return None
    merges = [" ".join(m) if isinstance(m, list) else m for m in model.get("merges") or []]
    added = [[a.get("id"), a.get("content")] for a in content.get("added_tokens") or []]
    return _hash([model.get("vocab"), merges, added])


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as problem:
        raise KitError(f"{path} cannot be read: {problem}") from problem
    if not isinstance(content, dict):
        raise KitError(f"{path} must hold a JSON object.")
    return content


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _commit() -> str | None:
    """The commit of the folder that the run was started in, when git knows it."""
    dirty = "--dirty= and uncommitted changes"
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", dirty]
    try:
        git = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if git.returncode else git.stdout.strip()
