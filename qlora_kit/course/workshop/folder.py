"""What a teacher hands out: a folder that sets the course up without a network, for a whole room.

And the student edition, the notebooks without their solutions, which is also what is packed.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import KitError, __version__
from ...machine import GB, digest, write_text
from ...models import BUNDLED, MINILM, bundled_folder, bundled_gguf
from ..notebooks import find_notebooks, read_notebook
from .install import PACK, SUMS
from .wheelhouse import PLATFORMS, Target, build_wheel, collect

EXTRAS = ("course", "harness", "serve")
_START = """# Start here

In a terminal, in this folder, with {pythons}:

    python install.py

It checks this machine and these files, installs the course into `qlora-course` in your home
folder (`--to` names another), and says *ready* or what to do. No network is needed. When
something was mended, run it again: what is done is kept, and your notebooks are never touched.
"""


@dataclass(frozen=True)
class PackedFolder:
    """What was packed: where, for which machines, how many wheels, and how large in all."""

    folder: Path
    targets: tuple[Target, ...]
    wheels: int
    size_gb: float


def pack_folder(
    out: Path,
    root: Path,
    notebooks: Path,
    targets: Sequence[Target],
    extras: Sequence[str] = EXTRAS,
    models: Sequence[str] = (*BUNDLED, MINILM.name),
) -> PackedFolder:
    """Pack a folder from which the course installs without a network.

    It holds wheels/, models/, data/, notebooks/ without solutions, install.py, START.md,
    pack.json and SHA256SUMS. It appears when it is whole.

    Args:
        out: the folder; it must not be there yet.
        root: the repository: pyproject.toml, constraints.txt and data/.
        notebooks: the folder of the notebooks.
        targets: the machines to pack for.
        extras: of the kit, to be installed.
        models: bundled models to take along; they are fetched when they are not here.

    Raises:
        KitError: the folder is there, or a package has no wheel for one of the machines.
    """
    if out.exists():
        raise KitError(f"{out} is there already. Remove it, or give another folder with --out.")
    constraints = root / "constraints.txt"
    if not constraints.is_file():
        raise KitError(f"There is no {constraints}. Run this at the top of the repository.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".packing-") as scratch:
        folder, wheels = Path(scratch, "pack"), Path(scratch, "pack", "wheels")
        wheels.mkdir(parents=True)
        kit = build_wheel(root, wheels)
        for target in targets:
            collect(wheels, kit, extras, target, constraints)
        student_edition(notebooks, folder / "notebooks")
        shutil.copytree(root / "data", folder / "data")
        (folder / "models").mkdir()
        for name in models:
            for source in _folders(name):
                shutil.copytree(source, folder / "models" / source.name)
        shutil.copyfile(Path(__file__).with_name("install.py"), folder / "install.py")
        _describe(folder, targets, extras)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
        write_text(folder / SUMS, "".join(lines))
        size, count = sum(path.stat().st_size for path in files), len(list(wheels.iterdir()))
        folder.rename(out)
    return PackedFolder(out, tuple(targets), count, size / GB)


def student_edition(notebooks: Path, out: Path) -> list[Path]:
    """Copy the notebooks and their profiles; solutions and the teacher's guide stay behind.

    Args:
        notebooks: the folder of the notebooks.
        out: where they go; must not be there yet.

    Returns:
        The copied notebooks.

    Raises:
        KitError: the folder is there, or a notebook stores outputs, which may hold answers.
    """
    if out.exists():
        raise KitError(f"{out} is there already. Remove it, or give another folder with --out.")
    paths = find_notebooks(notebooks)
    for path in paths:
        if any(cell.get("outputs") for cell in read_notebook(path).cells):
            raise KitError(
                f"{path} stores outputs, which may hold answers. Clear them first: "
                f"jupyter nbconvert --clear-output --inplace {path}"
            )
    out.mkdir(parents=True)
    shutil.copytree(notebooks / "profiles", out / "profiles")
    return [Path(shutil.copyfile(path, out / path.name)) for path in paths]


def _folders(model: str) -> list[Path]:
    """The cached folders of a bundled model: what is trained, and what llama.cpp serves."""
    if model == MINILM.name:
        return [bundled_folder(MINILM)]
    if model not in BUNDLED:
        raise KitError(f"{model!r} is no bundled model: {', '.join((*BUNDLED, MINILM.name))}.")
    return [bundled_folder(BUNDLED[model]), bundled_gguf(model).parent]


def _describe(folder: Path, targets: Sequence[Target], extras: Sequence[str]) -> None:
    """Write what install.py and a student read."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    description = {
        "version": __version__,
        "extras": ",".join(extras),
        # Wheels are packed tightly, an environment is not; the factor is chosen by hand.
        "needs_gb": round(4 * size / GB, 1),
        "targets": [
            {
                "python": target.python,
                "platform": target.platform,
                "system": PLATFORMS[target.platform].system,
                "machine": PLATFORMS[target.platform].machine,
            }
            for target in targets
        ],
    }
    write_text(folder / PACK, json.dumps(description, indent=1) + "\n")
    pythons = " or ".join(dict.fromkeys(f"Python {target.python}" for target in targets))
    write_text(folder / "START.md", _START.format(pythons=pythons))
