"""A folder of wheels from which pip installs without a network, for other machines than this one.

pip itself answers a package's conditions ("only on Windows") for the machine that it runs on,
also when it downloads for another. So the requirements are followed here, one wheel's after the
other's, with the other machine's answers; pip only finds and fetches.
"""

import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING

from ... import KitError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
_GLIBC = (28, 27, 26, 24, 17, 12, 5)  # wheels for glibc 2.28 and older run wherever torch does


@dataclass(frozen=True)
class Platform:
    """A kind of machine: the tags of its wheels, best first, and what markers ask about it."""

    tags: tuple[str, ...]
    markers: dict[str, str]


PLATFORMS = {
    **{
        name: Platform(
            (*(f"manylinux_2_{minor}_{machine}" for minor in _GLIBC), f"manylinux2014_{machine}"),
            _LINUX | {"platform_machine": machine},
        )
        for name, machine in (("linux", "x86_64"), ("linux-arm", "aarch64"))
    },
    "mac": Platform(
        ("macosx_14_0_arm64",),
        {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix",
         "platform_machine": "arm64"},
    ),
    "windows": Platform(
        ("win_amd64",),
        {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt",
         "platform_machine": "AMD64"},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A Python, such as "3.11", on a platform, a name in `PLATFORMS`."""

    python: str
    platform: str

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform}"

    @property
    def newest(self) -> str:
        """As a full version: pip takes 3.11 for 3.11.0, which some packages are too new for."""
        return f"{self.python}.99"

    @property
    def environment(self) -> dict[str, str]:
        """What the markers of requirements are evaluated with."""
        return {
            **PLATFORMS[self.platform].markers,
            "python_version": self.python,
            "python_full_version": self.newest,
            "implementation_name": "cpython",
            "implementation_version": self.newest,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_version": "",
        }


def this_platform() -> str:
    """The name in `PLATFORMS` of the machine that this runs on.

    Raises:
        KitError: it is none of them.
    """
    for name, known in PLATFORMS.items():
        if (known.markers["sys_platform"], known.markers["platform_machine"]) == (
            sys.platform, platform.machine(),
        ):  # fmt: skip
            return name
    raise KitError(
        f"This machine ({sys.platform}, {platform.machine()}) is none of the platforms that can "
        f"be packed for: {', '.join(PLATFORMS)}. Name one with --platform."
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


def read_pins(constraints: Path) -> dict[str, str]:
    """The versions that a file of pip's constraints pins.

    Args:
        constraints: with lines such as torch==2.13.0.

    Raises:
        KitError: there is no such file.
    """
    if not constraints.is_file():
        raise KitError(f"There is no {constraints}. Run this at the top of the repository.")
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {_plain(name): version for name, version in pairs}


def collect(
    wheels: Path, wheel: Path, extras: Sequence[str], target: Target, pins: dict[str, str]
) -> None:
    """Fetch the wheels of all that a wheel needs on a machine, directly or not.

    Args:
        wheels: where they go; what is there already is taken as it is.
        wheel: whose requirements are followed.
        extras: of this wheel.
        target: the machine.
        pins: of packages by name, from `read_pins`; others come in their newest version.

    Raises:
        KitError: a package without a wheel for the target; its name is in the message.
    """
    level = _needed(wheel, extras, target)
    asked = {str(requirement) for requirement in level}
    while level:
        found = _download(level, wheels, target, pins)
        following = [
            child
            for requirement in level
            for child in _needed(found[_plain(requirement.name)], requirement.extras, target)
        ]
        level = list({str(child): child for child in following if str(child) not in asked}.values())
        asked |= {str(child) for child in level}


def _needed(wheel: Path, extras: Sequence[str] | set[str], target: Target) -> "list[Requirement]":
    """What a wheel asks for on a machine; the conditions are answered and left out."""
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
        told = HeaderParser().parsestr(archive.read(name).decode())
    needed = []
    for line in told.get_all("Requires-Dist") or []:
        requirement = Requirement(line)
        marker, requirement.marker = requirement.marker, None
        environments = [{**target.environment, "extra": extra} for extra in (*extras, "")]
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            needed.append(requirement)
    return needed


def _download(
    requirements: "list[Requirement]", wheels: Path, target: Target, pins: dict[str, str]
) -> dict[str, Path]:
    """Fetch these wheels, not what they need; a package that is pure source is built."""
    names = {_plain(one.name): f"{one.name}{one.specifier}" for one in requirements}
    wanted = [f"{name}=={pins[name]}" if name in pins else any_ for name, any_ in names.items()]
    tags = PLATFORMS[target.platform].tags
    built: set[str] = set()
    while True:
        with tempfile.TemporaryDirectory(dir=wheels.parent) as folder:
            try:
                _pip(
                    "download", "--no-deps", "--only-binary=:all:", "--dest", folder,
                    "--find-links", str(wheels), "--implementation", "cp",
                    "--python-version", target.newest,
                    *(part for tag in tags for part in ("--platform", tag)), *wanted,
                )  # fmt: skip
            except _NoWheelError as missing:
                if missing.package in built:
                    raise KitError(_without_wheel(missing.package, target)) from None
                built.add(missing.package)
                _build_pure(missing.package, wheels, target)
                continue
            return {
                _plain(path.name.split("-")[0]): path.replace(wheels / path.name)
                for path in Path(folder).glob("*.whl")
            }


def _build_pure(package: str, wheels: Path, target: Target) -> None:
    """Build a wheel for every machine from a package that is published as source alone."""
    with tempfile.TemporaryDirectory(dir=wheels.parent) as folder:
        try:
            _pip("wheel", "--no-deps", "--wheel-dir", folder, package)
        except KitError as problem:
            raise KitError(f"{_without_wheel(package, target)} ({problem})") from None
        [wheel] = Path(folder).glob("*.whl")
        if not wheel.name.endswith("-none-any.whl"):
            raise KitError(_without_wheel(package, target))
        wheel.replace(wheels / wheel.name)


def _without_wheel(package: str, target: Target) -> str:
    return (
        f"There is no wheel of {package} for {target}. Leave this Python or platform out, or "
        "move the version in constraints.txt to one that has it."
    )


class _NoWheelError(KitError):
    def __init__(self, package: str, said: str) -> None:
        super().__init__(said)
        self.package = package


def _pip(*arguments: str) -> None:
    """Run pip, which knows the user's index, proxy and find-links."""
    verb, *rest = arguments
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", *rest]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        said = (lines or done.stderr.strip().splitlines() or ["it did not say why"])[-1]
        missing = re.search(r"No matching distribution found for (\S+)", done.stderr)
        if missing:
            raise _NoWheelError(missing[1], said)
        raise KitError(f"pip {verb} failed: {said.removeprefix('ERROR: ')}")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
