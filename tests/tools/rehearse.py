"""`make rehearse`: each lesson as Colab would run it.

A fresh environment holds what Colab ships (tests/tools/colab.txt) and nothing else. Each notebook
lies alone in an empty folder; its set-up cell installs the kit from the repository's URL, which git
is told to find here, as committed. All cells run in one kernel, which has loaded what Colab's has
before the first cell. Of that nothing may afterward have another version (it would ask for a
restart), but pyarrow, which the kit renews; and torch, numpy and transformers may not have gone
back.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import papermill
from packaging.version import Version

from qlora_kit.course.notebooks import find_notebooks
from qlora_kit.course.profiles import read_profile

ROOT = Path(__file__).parents[2]
KEPT = ("torch", "numpy", "transformers")
RENEWED = ("pyarrow",)  # by the set-up cell (`renew_pyarrow`)
# What Colab's kernel holds before the first cell: its own machinery, what shows figures, and
# pandas, "so having this happen before they connect saves them 1-2s" (craigcitro of Colab in
# NVIDIA/cudf#10187). pandas loads pyarrow.
START = "import ipykernel.kernelapp, matplotlib.pyplot, numpy, pandas, PIL, psutil"
LOADED = """
import json, sys
from importlib.metadata import packages_distributions
found = packages_distributions()
roots = {name.split(".")[0] for name in sys.modules}
print(json.dumps(sorted({one for root in roots for one in found.get(root, ())})))
"""


@dataclass(frozen=True)
class Rehearsal:
    """One lesson: whether it went well, and which packages its set-up cell brought or moved."""

    notebook: str
    minutes: float
    problems: tuple[str, ...]
    moved: dict[str, tuple[str | None, str]]


def make_environment(folder: Path) -> Path:
    """An environment with Colab's packages; made once, it is kept as it is."""
    python = folder / "bin/python"
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = str(ROOT / "tests/tools/colab.txt")
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", packages], check=True)
        (folder / ".ready").touch()
    return python


def copy_environment(base: Path, folder: Path) -> Path:
    """Another one with the same files; pip replaces files and never writes into them."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, symlinks=True, copy_function=os.link)
    return folder / "bin/python"


def versions(python: Path) -> dict[str, str]:
    command = [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=plain()).stdout
    return {one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(told)}


def loaded(python: Path) -> set[str]:
    command = [python, "-c", START + LOADED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain())
    return {name.lower().replace("_", "-") for name in json.loads(done.stdout)}


def plain(**more: str) -> dict[str, str]:
    """This environment without what would let another kit or another backend in."""
    hidden = ("PYTHONPATH", "MPLBACKEND", "VIRTUAL_ENV", "QLORA_KIT_COURSE_RUN")
    return {name: value for name, value in os.environ.items() if name not in hidden} | more


def judge(before: dict[str, str], after: dict[str, str], in_use: set[str]) -> tuple[str, ...]:
    """What the set-up cell must not have done."""
    problems = [
        f"{name} went back from {before[name]} to {after[name]}"
        for name in KEPT
        if Version(after[name]) < Version(before[name])
    ]
    problems += [
        f"{name} was in use and moved from {before[name]} to {after.get(name)}: restart needed"
        for name in sorted(in_use & before.keys())
        if name not in RENEWED and after.get(name) != before[name]
    ]
    if "qlora-kit" not in after:
        problems.append("the set-up cell did not install the kit")
    return tuple(problems)


def rehearse(path: Path, parameters: dict, base: Path, scratch: Path, environ: dict) -> Rehearsal:
    """Run one notebook alone, in an environment and a folder of its own."""
    began = time.perf_counter()
    folder = scratch / path.stem
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "content").mkdir(parents=True)
    python = copy_environment(base, folder / "environment")
    spec = folder / "jupyter/kernels/colab/kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    startup = folder / "ipython/profile_default/startup/colab.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(START)
    alone = Path(shutil.copyfile(path, folder / "content" / path.name))
    before, in_use = versions(python), loaded(python)
    problems: tuple[str, ...] = ()
    os.environ.clear()
    os.environ.update(
        environ, JUPYTER_PATH=str(folder / "jupyter"), IPYTHONDIR=str(folder / "ipython")
    )
    try:
        papermill.execute_notebook(
            str(alone), str(folder / path.name), parameters, kernel_name="colab",
            cwd=str(folder / "content"), progress_bar=False, execution_timeout=1800,
        )  # fmt: skip
    except Exception as problem:  # the other lessons are rehearsed all the same
        problems = (f"{type(problem).__name__}: {str(problem).strip()[-600:]}",)
    after = versions(python)
    moved = {
        name: (before.get(name), new) for name, new in after.items() if before.get(name) != new
    }
    problems = judge(before, after, in_use) + problems
    if not problems:
        shutil.rmtree(folder / "environment")
    return Rehearsal(path.stem, (time.perf_counter() - began) / 60, problems, moved)


def repository_here(scratch: Path, notebooks: list[Path]) -> dict[str, str]:
    """The environment in which git finds the repository of the set-up cells here."""
    [url] = {re.search(r"git\+(https://[^\\\"]+)", path.read_text())[1] for path in notebooks}
    clone = scratch / "repository"
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    state = ["git", "-C", str(ROOT), "status", "--porcelain"]
    if subprocess.run(state, capture_output=True, text=True, check=True).stdout.strip():
        print("Not everything is committed; what is rehearsed is the last commit.")
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{clone.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": url}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="lessons, such as 00,04; by itself all")
    parser.add_argument("--output", type=Path, default=Path("runs/rehearsal"))
    parser.add_argument("--cache", type=Path, help="models of an earlier one; by itself none")
    arguments = parser.parse_args()
    scratch = arguments.output.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    notebooks = find_notebooks(ROOT / "notebooks", [n for n in arguments.only.split(",") if n])
    profile = read_profile("smoke", ROOT / "notebooks")
    base = make_environment(scratch / "colab").parent.parent
    with tempfile.TemporaryDirectory(dir=scratch) as empty:
        cache = (arguments.cache or Path(empty)).resolve()
        environ = plain(QLORA_KIT_CACHE=str(cache), **repository_here(scratch, notebooks))
        done = []
        for path in notebooks:
            found = rehearse(path, profile[path.stem], base, scratch, environ)
            brought = sum(old is None for old, _ in found.moved.values())
            upgraded = [f"{n} {old} -> {new}" for n, (old, new) in found.moved.items() if old]
            print(f"{found.notebook}: {'; '.join(found.problems) or 'as on Colab'}; "
                  f"{found.minutes:.1f} minutes, {brought} packages brought, "
                  f"moved: {', '.join(upgraded) or 'none'}", flush=True)  # fmt: skip
            done.append(found)
    failed = [found.notebook for found in done if found.problems]
    print(f"{len(done) - len(failed)} of {len(done)} lessons run on Colab's packages.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
