"""A folder of wheels from which pip installs without a network, for other machines than this one.

uv resolves what the kit needs with the other machine's answers to a package's conditions ("only
on Windows"); pip, which answers them for the machine that it runs on, only fetches what uv named.
"""

import os
import platform
import re
import subprocess
import sys
from ast import literal_eval
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import KitError
from ..extras import needs_extra

_GLIBC = (28, 27, 26, 24, 17, 12, 5)  # wheels for glibc 2.28 and older run wherever torch does
# What pip is configured with and uv must be told, with the variable that tells it: the command
# line would show an index's password to all users of the machine.
_UV_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "cert": ("SSL_CERT_FILE", " "),
}


@dataclass(frozen=True)
class Platform:
    """A kind of machine: uv's name for it, its wheels' tags for pip, and what Python calls it."""

    uv_name: str
    tags: tuple[str, ...]
    system: str
    machine: str


def _linux(machine: str) -> Platform:
    tags = (*(f"manylinux_2_{minor}_{machine}" for minor in _GLIBC), f"manylinux2014_{machine}")
    return Platform(f"{machine}-manylinux_2_{_GLIBC[0]}", tags, "linux", machine)


PLATFORMS = {
    "linux": _linux("x86_64"),
    "linux-arm": _linux("aarch64"),
    # uv's mac is older than bitsandbytes' wheels; `_resolve` tells it the one of this tag.
    "mac": Platform("aarch64-apple-darwin", ("macosx_14_0_arm64",), "darwin", "arm64"),
    "windows": Platform("x86_64-pc-windows-msvc", ("win_amd64",), "win32", "AMD64"),
}


@dataclass(frozen=True)
class Target:
    """A Python, such as "3.11", on a platform, a name in `PLATFORMS`."""

    python: str
    platform: str

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform}"

    @property
    def newest(self) -> str:
        """As a full version: 3.11 is taken for 3.11.0, which some packages are too new for."""
        return f"{self.python}.99"


def this_platform() -> str:
    """The name in `PLATFORMS` of the machine that this runs on.

    Raises:
        KitError: it is none of them.
    """
    here = (sys.platform, platform.machine())
    for name, kind in PLATFORMS.items():
        if (kind.system, kind.machine) == here:
            return name
    raise KitError(
        f"This machine ({', '.join(here)}) is none of the platforms that can be packed for: "
        f"{', '.join(PLATFORMS)}. Name one with --platform."
    )


def targets_of(platforms: Sequence[str], pythons: Sequence[str]) -> list[Target]:
    """This Python on this machine, and the others that were named, in every combination.

    Args:
        platforms: further names in `PLATFORMS`.
        pythons: further versions, such as "3.12".

    Raises:
        KitError: a name or a version that there cannot be.
    """
    for name in platforms:
        if name not in PLATFORMS:
            raise KitError(f"There is no platform {name!r}; those are: {', '.join(PLATFORMS)}.")
    for version in pythons:
        if not re.fullmatch(r"3\.\d+", version):
            raise KitError(f"{version!r} is no version of Python. Give it as 3.12.")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return [
        Target(python, name)
        for name in dict.fromkeys([this_platform(), *platforms])
        for python in dict.fromkeys([here, *pythons])
    ]


def build_wheel(project: Path, wheels: Path) -> Path:
    """Build a project's own wheel.

    Args:
        project: the folder with its pyproject.toml.
        wheels: where the wheel goes.
    """
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(project))
    [wheel] = wheels.glob("*.whl")
    return wheel


def collect(
    wheels: Path, wheel: Path, extras: Sequence[str], target: Target, constraints: Path
) -> None:
    """Fetch the wheels of all that a wheel needs on a machine, directly or not.

    Args:
        wheels: where they go; what is there already is taken as it is.
        wheel: whose requirements are followed.
        extras: of this wheel.
        target: the machine.
        constraints: a file with lines such as torch==2.13.0; others come in their newest version.

    Raises:
        KitError: a package without a wheel for the target; its name is in the message.
    """
    name = wheel.name.split("-")[0]
    requirement = f"{name}[{','.join(extras)}] @ {wheel.resolve().as_uri()}"
    pins = _resolve(requirement, target, constraints)
    tags = [part for tag in PLATFORMS[target.platform].tags for part in ("--platform", tag)]
    options = ["--no-deps", "--only-binary=:all:", "--dest", str(wheels), "--find-links"]
    python = ["--implementation", "cp", "--python-version", target.newest]
    while True:
        try:
            _pip("download", *options, str(wheels), *python, *tags, *pins)
            return
        except KitError as problem:
            missing = re.search(r"No matching distribution found for (\S+)", str(problem))
            if missing is None:
                raise
            _build_pure(missing[1], wheels, target)


def _resolve(requirement: str, target: Target, constraints: Path) -> list[str]:
    """All that a requirement needs on a machine, as name==version, without itself."""
    with needs_extra("Packing", "course"):
        from uv import find_uv_bin
    variables, options = _pip_settings()
    command = [
        *(find_uv_bin(), "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate"),
        *("--python-platform", PLATFORMS[target.platform].uv_name),
        *("--python-version", target.newest, "--no-python-downloads"),
        *("--constraints", str(constraints)),
        *("--index-strategy", "unsafe-best-match"),  # the best of all indexes, as pip chooses
        *options,
    ]
    environ = {"MACOSX_DEPLOYMENT_TARGET": "14.0", **variables, **os.environ}
    done = subprocess.run(command, input=requirement, capture_output=True, text=True, env=environ)
    if done.returncode:
        missing = re.search(r"Because ([\w.-]+)[^,]*? (has no wheels|was not found)", done.stderr)
        if missing:
            raise _without_wheel(missing[1], target)
        raise KitError(f"The packages for {target} cannot be resolved: {done.stderr.strip()}")
    return [line for line in done.stdout.splitlines() if " @ " not in line]


def _pip_settings() -> tuple[dict[str, str], list[str]]:
    """The user's index and find-links, which pip knows and uv does not: (variables, options)."""
    settings: dict[str, str] = {}
    for line in _pip("config", "list").splitlines():  # variables before files
        key, _, value = line.partition("=")
        settings.setdefault(key.rpartition(".")[2], str(literal_eval(value)))
    variables = {
        variable: separator.join(settings[name].split())
        for name, (variable, separator) in _UV_VARIABLES.items()
        if name in settings
    }
    offline = settings.get("no-index", "").lower() in ("1", "on", "true", "yes")
    return variables, ["--no-index"] if offline else []


def _build_pure(package: str, wheels: Path, target: Target) -> None:
    """Build a wheel for every machine from a package that is published as source alone."""
    before = set(wheels.iterdir())
    try:
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), package)
    except KitError as problem:
        raise KitError(f"{_without_wheel(package, target)} ({problem})") from None
    if not any(path.name.endswith("-none-any.whl") for path in {*wheels.iterdir()} - before):
        raise _without_wheel(package, target)


def _without_wheel(package: str, target: Target) -> KitError:
    return KitError(
        f"There is no wheel of {package} for {target}. Leave this Python or platform out, or "
        "move the version in constraints.txt to one that has it."
    )


def _pip(verb: str, *arguments: str) -> str:
    """Run pip, which knows the user's index, proxy and find-links; give back what it printed."""
    quiet = () if verb == "config" else ("--quiet",)
    command = [sys.executable, "-m", "pip", verb, *quiet, "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it did not say why"]
        errors = [line for line in lines if line.startswith("ERROR: ")] or lines
        raise KitError(f"pip {verb} failed: {errors[-1].removeprefix('ERROR: ')}")
    return done.stdout
