"""The repository's own promises: one list of packages, sizes, American spelling of the rules."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = sorted((ROOT / "qlora_kit").glob("*.py"))


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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_stay_small_and_documented(path):
    text = path.read_text()
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert (node.end_lineno or 0) - node.lineno <= 60, node.name
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_modules_import_only_from_their_left():
    order = ["__init__", "parallel", "hardware", "atomic", "templates", "gguf_header", "fetch",
             "models", "quantize", "lora", "qlora", "chat", "loss", "fused", "inference",
             "model_sizes", "memory_terms", "memory", "config", "weights", "manifest", "trust",
             "adapters", "packing", "micro_batches", "embeddings", "rows", "words",
             "data", "documents", "findings", "similarity", "neighbors", "contradictions",
             "duplicates", "personal_data", "answers", "outliers", "audit", "checkpoint",
             "run_folder", "trainer", "stats", "pictures", "plots", "train", "likelihood",
             "harness", "judge", "evaluate",
             "report", "merge", "gguf_vocab", "gguf_export", "readings", "parity", "model_card",
             "export", "gguf_check", "offline", "proxy", "serve", "client", "load_test", "talk",
             "demo", "verify", "claims", "profiles", "course_record", "kernels", "baselines",
             "course_report", "course_site", "course_view", "course", "cards", "stamp",
             "wheelhouse", "workshop_install", "workshop", "workshop_check", "room_report",
             "exercises", "widgets", "cli_data", "cli_plan", "cli_run", "cli_serve", "cli_course",
             "cli_export", "cli_workshop", "cli"]  # fmt: skip
    assert {path.stem for path in MODULES} | {"exercises"} == set(order)
    late = {("plots", "evaluate"), ("report", "evaluate")}  # for types only
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                found = [node.module] if node.module else [alias.name for alias in node.names]
                for name in found:
                    if name in order and (path.stem, name) not in late:
                        assert order.index(name) < order.index(path.stem), f"{path.stem} -> {name}"


def test_the_wheel_carries_the_data():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"] == {"data": "qlora_kit/bundled"}
