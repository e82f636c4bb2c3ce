"""The repository's own promises: one list of packages, documented rooms with a face each."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
PACKAGE = ROOT / "qlora_kit"
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(face.parent.name for face in PACKAGE.glob("*/__init__.pyi"))


def names(requirements):
    return {
        re.match(r"[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-") for line in requirements
    }


def test_conda_takes_its_packages_from_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    [pip] = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert {re.match(r"\w+", name)[0] for name in conda} == {"python", "pip"}
    assert "--constraint constraints.txt" in pip
    [editable] = [line for line in pip if line.startswith("--editable")]
    extras = set(re.search(r"\[(.*)\]", editable)[1].split(","))
    assert extras == set(PROJECT["optional-dependencies"])
    assert len(pip) == 2


def test_constraints_pin_every_direct_requirement():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line for line in lines if line and not line.startswith("#")}
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in pinned)
    assert "torch==2.13.0" in pinned
    wanted = names(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        wanted |= names(extra)
    assert wanted <= names(pinned)


def test_python_and_make_are_all_that_the_readme_asks_for():
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "demo", "test", "lab", "bench"):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_links_in_the_documents_resolve():
    for document in [*ROOT.glob("*.md"), ROOT / "data/README.md"]:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if not target.startswith(("http", "mailto")):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_public_is_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file says in its first line what it is about"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_shows_what_is_there(room):
    face = importlib.import_module(f"qlora_kit.{room}")
    assert face.__all__
    for name in face.__all__:
        assert getattr(face, name) is not None
        # As a submodule it would take the place of what the room exports.
        assert not (PACKAGE / room / f"{name}.py").exists(), f"a file bears the name of {name}"


def test_every_room_has_a_face():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {*ROOMS, "cli"}


def test_the_wheel_carries_the_data():
    build = SETTINGS["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"] == {"data": "qlora_kit/bundled"}


@pytest.fixture
def workflow():
    text = (ROOT / ".github/workflows/tests.yml").read_text()
    return yaml.load(text, yaml.BaseLoader)  # with others "on" would be a truth value


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands(workflow):
    return [step["run"] for step in steps(workflow) if "run" in step]


def test_the_workflow_reads_only_and_ends(workflow):
    assert set(workflow["on"]) >= {"push", "pull_request", "schedule"}
    assert workflow["permissions"] == {"contents": "read"}
    assert "github.ref" in workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert int(job["timeout-minutes"]) <= 60
    actions = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert actions
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)


def test_the_workflow_makes_what_the_makefile_knows(workflow):
    makefile = (ROOT / "Makefile").read_text()
    targets = {target for line in commands(workflow) for target in re.findall(r"make (\S+)", line)}
    assert targets == {"lint", "quick"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), f"make {target} is no target"


def test_each_week_all_extras_meet_the_newest_versions(workflow):
    newest = workflow["jobs"]["newest"]
    assert "schedule" in newest["if"]
    lines = [step["run"] for step in newest["steps"] if "run" in step]
    assert not any("constraint" in line for line in lines)
    install, beyond = [line for line in lines if "pip install" in line]
    assert "--upgrade" in install
    bounded = {name for name in names(PROJECT["dependencies"]) if name in beyond.split()}
    assert bounded == {
        name for line in PROJECT["dependencies"] if "<" in line for name in names([line])
    }
    extras = set(re.search(r"\.\[(.*)\]", install)[1].split(","))
    assert extras == set(PROJECT["optional-dependencies"])
    assert workflow["env"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")


def test_the_workflow_asks_for_markers_that_are_declared(workflow):
    declared = {
        marker.split(":")[0] for marker in SETTINGS["tool"]["pytest"]["ini_options"]["markers"]
    }
    asked = {
        marker for line in commands(workflow) for marker in re.findall(r"pytest\b.* -m (\w+)", line)
    }
    assert asked == {"equality"}
    assert asked <= declared
