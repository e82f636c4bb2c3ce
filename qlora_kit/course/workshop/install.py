"""install.py of a workshop's folder: from here to the first lesson, without a network.

It runs on any plain Python, so it imports nothing but the standard library, and its first lines
must be understood by old ones as well. `qlora-kit workshop pack` copies this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUMS, PACK = "SHA256SUMS", "pack.json"
GB = 1e9


class ProblemError(Exception):
    """What is wrong and what to do, as a student should read it."""


def main() -> int:
    """Install; a problem becomes one message and exit code 1."""
    parser = argparse.ArgumentParser(description="Set the course up, without a network.")
    place = Path.home() / "qlora-course"
    parser.add_argument("--to", type=Path, default=place, help="where it goes (%(default)s)")
    home = parser.parse_args().to.expanduser().resolve()
    try:
        return install(home)
    except ProblemError as problem:
        print(f"\n{problem}", file=sys.stderr)
    except OSError as problem:
        print(f"\nThe disk says: {problem}", file=sys.stderr)
    return 1


def install(home: Path) -> int:
    """Check this machine and the folder, install, and let the kit say whether it is ready.

    Args:
        home: where notebooks and environment go; what a student has written there stays.

    Returns:
        The exit code of `qlora-kit workshop check`.
    """
    pack = json.loads((HERE / PACK).read_text(encoding="utf-8"))
    check_python(pack)
    check_files(HERE)
    check_room(home, pack)
    print(f"Installing into {home} ...")
    copy_missing(HERE / "notebooks", home / "notebooks")
    copy_missing(HERE / "data", home / "data")
    python = make_environment(home / ".venv")
    wheels, kit = HERE / "wheels", f"qlora-kit[{pack['extras']}]=={pack['version']}"
    options = "--isolated install --quiet --disable-pip-version-check --no-index --find-links"
    run([python, "-m", "pip", *options.split(), wheels, kit])
    place_models(HERE / "models", cache_of(python))
    kit_command = python.with_name("qlora-kit" + python.suffix)
    code = subprocess.run([str(kit_command), "workshop", "check"], cwd=home).returncode
    if code == 0:
        lab = python.with_name("jupyter" + python.suffix)
        print(f"Start with:\n\n    cd {home}\n    {lab} lab notebooks/00_start_here.ipynb\n")
    return code


def check_python(pack: dict) -> None:
    """Whether the folder has wheels for this Python on this machine.

    Args:
        pack: what `pack.json` says.
    """
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    machine = [sys.platform, platform.machine().replace("arm64", "aarch64").lower()]
    fits = [
        target["python"]
        for target in pack["targets"]
        if [target["system"], target["machine"].replace("arm64", "aarch64").lower()] == machine
    ]
    packed = ", ".join(f"Python {t['python']} on {t['platform']}" for t in pack["targets"])
    if not fits:
        raise ProblemError(
            f"This folder is for {packed}. This machine is {' '.join(machine)}: "
            "ask for a folder that was packed for it."
        )
    if here not in fits:
        raise ProblemError(
            f"This folder is for {packed}, and this is Python {here} "
            f"({sys.executable}). Run install.py with Python "
            f"{' or '.join(fits)}."
        )
    if sys.maxsize < 2**32:
        raise ProblemError("This Python has 32 bits, PyTorch needs one of 64 bits.")


def check_files(folder: Path) -> None:
    """Whether every file of the folder arrived as it was packed.

    Args:
        folder: with its SHA256SUMS.
    """
    print("Checking the files ...")
    damaged = []
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ", 1)
        path = folder / name
        if not path.is_file() or digest(path) != expected:
            damaged.append(name)
    if damaged:
        shown = ", ".join(damaged[:5]) + (" and more" if len(damaged) > 5 else "")
        raise ProblemError(
            f"{len(damaged)} files are missing or damaged: {shown}. Copy the "
            "folder again, then run install.py again."
        )


def check_room(home: Path, pack: dict) -> None:
    """Whether the disk has room for the environment and the models.

    Args:
        home: where they go.
        pack: what `pack.json` says.
    """
    disk = next(path for path in (home, *home.parents) if path.exists())
    free, needed = shutil.disk_usage(disk).free / GB, pack["needs_gb"]
    if free < needed:
        raise ProblemError(
            f"{disk} has {free:.1f} GB free, the course needs {needed:.1f} GB. "
            "Make room, or choose another disk with --to."
        )


def make_environment(folder: Path) -> Path:
    """Make a virtual environment, or take the one that is there.

    Args:
        folder: where it goes.

    Returns:
        Its Python.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        try:
            run([sys.executable, "-m", "venv", folder])
        except ProblemError as problem:
            shutil.rmtree(folder, ignore_errors=True)
            raise ProblemError(
                f"{problem}\nThis Python cannot make environments. On Debian and "
                "Ubuntu 'sudo apt install python3-venv' mends that; else take "
                "another Python."
            ) from None
    return python


def cache_of(python: Path) -> Path:
    """Where the installed kit looks for its models.

    Args:
        python: of the environment.
    """
    code = "from qlora_kit.machine import cache_home; print(cache_home())"
    return Path(run([python, "-c", code]).strip())


def place_models(source: Path, cache: Path) -> None:
    """Copy the models that the cache does not hold; each is there whole or not at all.

    Args:
        source: a folder for each model.
        cache: the kit's.
    """
    for model in sorted(path for path in source.iterdir() if path.is_dir()):
        final = cache / model.name
        if not final.exists():
            scratch = cache / f".{model.name}-installing"
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.copytree(model, scratch)
            scratch.rename(final)


def copy_missing(source: Path, target: Path) -> None:
    """Copy a folder; a file that is there already is the student's and stays.

    Args:
        source: the folder.
        target: its place.
    """
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_file() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def digest(path: Path) -> str:
    """A file's SHA-256.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(command: list) -> str:
    """Run a command and give back what it printed.

    Args:
        command: its words.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        failed = "This did not work: " + " ".join(map(str, command))
        raise ProblemError("\n  ".join([failed, *lines]))
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
