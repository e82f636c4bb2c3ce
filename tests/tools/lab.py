"""JupyterLab as a person uses it: started by `make lab`, clicked and typed into in a browser."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import expect

from qlora_kit.course.notebooks import find_notebooks
from qlora_kit.course.profiles import read_profile
from tests.gates.cells import code, python, tags

ROOT = Path(__file__).parents[2]
START_MS, CELL_MS, LESSON_MS = 90_000, 120_000, 900_000
BROKEN_WIDGETS = ("Error displaying widget", "Loading widget", "Error creating widget")


@contextmanager
def make_lab(home: Path, **changes: dict[str, Any]) -> Iterator[str]:
    """`make lab` in a copy of the course with a new user's settings: the page it opens.

    Args:
        home: an empty folder.
        changes: parameters by notebook, instead of the profile smoke's.
    """
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    profile = read_profile("smoke", home / "notebooks")
    for path in find_notebooks(home / "notebooks"):
        given = {**profile[path.stem], **changes.get(path.stem, {})}
        notebook = nbformat.read(path, as_version=4)
        [cell] = [cell for cell in notebook.cells if "parameters" in tags(cell)]
        cell.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
        nbformat.write(notebook, path)
    opened, log = home / "opened", home / "log"
    environ = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        (home / name).mkdir()
        environ[f"JUPYTER_{name}"] = str(home / name)
    settings = {"ServerApp": {"allow_root": True}}  # as in a container
    (home / "CONFIG_DIR/jupyter_server_config.json").write_text(json.dumps(settings))
    browser = home / "browser.py"  # the browser that webbrowser starts: it notes the address
    browser.write_text(f"import sys\nopen({str(opened)!r}, 'w').write(sys.argv[1])\n")
    environ["BROWSER"] = f"{sys.executable} {browser} %s"
    command = [
        "make", "--silent", f"--file={ROOT / 'Makefile'}", "lab", f"VENV={sys.prefix}",
        f"--old-file={sys.prefix}/.ready",
    ]  # fmt: skip
    with log.open("wb") as told:
        server = subprocess.Popen(
            command, cwd=home, env=environ, stdout=told, stderr=told, start_new_session=True
        )
    try:
        until = time.monotonic() + START_MS / 1000
        while not (opened.exists() and opened.read_text()):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield opened.read_text()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


class Lab:
    """A browser's page with JupyterLab in it, and the notebook that is in front."""

    def __init__(self, page: Any, home: Path):
        self.page, self.folder = page, home / "notebooks"
        self.name = "00_start_here"
        page.set_default_timeout(CELL_MS)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.ipynb"

    @property
    def front(self) -> Any:
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    def open(self, name: str) -> None:
        """Double-click a lesson in the list of files, and wait until its kernel is there."""
        self.page.locator(f".jp-DirListing-item[title*='{name}.ipynb']").dblclick()
        self.name = name
        self.page.locator(f".lm-TabBar-tab.lm-mod-current[title*='{name}.ipynb']").wait_for()
        self.ready()

    def ready(self) -> None:
        """Wait until no cell runs or waits."""
        idle = self.page.locator("#jp-main-statusbar").get_by_text("| Idle")
        idle.wait_for(timeout=LESSON_MS)
        self.page.wait_for_function(
            "() => ![...document.querySelectorAll('.jp-InputPrompt')]"
            ".some(prompt => prompt.textContent.includes('*'))",
            timeout=LESSON_MS,
        )

    def place(self, text: str) -> int:
        """Which cell holds a text."""
        cells = nbformat.read(self.path, as_version=4).cells
        return next(i for i, cell in enumerate(cells) if text in cell.source)

    def cell(self, index: int) -> Any:
        return self.front.locator(f".jp-Cell[data-windowed-list-index='{index}']")

    def start(self, index: int) -> Any:
        """Press Shift+Enter in a cell."""
        cell = self.cell(index)
        cell.locator(".cm-content").click()
        cell.locator(".cm-focused").wait_for()
        self.page.keyboard.press("Shift+Enter")
        return cell

    def run(self, index: int) -> Any:
        """Press Shift+Enter in a cell and wait for its end."""
        cell = self.start(index)
        cell.locator(".jp-InputPrompt", has_text=re.compile(r"\[\d+\]")).wait_for()
        return cell

    def write(self, index: int, source: str) -> None:
        """Type over what a cell holds."""
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.insert_text(source)

    def run_all(self) -> None:
        """Run > Run All Cells, to the end."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_timeout(1000)
        self.ready()

    def saved(self) -> Any:
        """Press Ctrl+S: the notebook as it lies on the disk then."""
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("ControlOrMeta+S")
        # Its own tab: the first lesson's, behind it, is dirty since its kernel named its language.
        expect(self.page.locator(".lm-TabBar-tab.lm-mod-current.jp-mod-dirty")).to_have_count(0)
        return nbformat.read(self.path, as_version=4)

    def problems(self) -> list[str]:
        """What a reader would stumble over: errors, widgets that do not show, mute pictures."""
        said = [line for line in BROKEN_WIDGETS if self.front.get_by_text(line).count()]
        said += self.front.locator("[data-mime-type$='jupyter.error']").all_inner_texts()
        mute = self.front.locator(".jp-OutputArea img:not([alt]), .jp-OutputArea img[alt='']")
        return said + [image.evaluate("e => e.outerHTML.slice(0, 200)") for image in mute.all()]


def needed(path: Path, text: str) -> list[int]:
    """Which cells the one with a text needs to have run, in order, itself at the end."""
    cells = code(nbformat.read(path, as_version=4))
    end = next(place for place, (_, cell) in enumerate(cells) if text in cell.source)
    found, names = [cells[end][0]], _names(cells[end][1], ast.Load)
    for index, cell in reversed(cells[:end]):
        if _names(cell, ast.Store) & names:
            found.insert(0, index)
            names |= _names(cell, ast.Load)
    return found


def _names(cell: Any, kind: type) -> set[str]:
    tree = ast.parse(python(cell))
    found = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}
    if kind is ast.Store:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {(item.asname or item.name).split(".")[0] for item in node.names}
    return found
