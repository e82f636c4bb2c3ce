"""The packed folder on stand-in wheels: what it holds, what install.py refuses, what is checked."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qlora_kit import KitError
from qlora_kit.course import check_machine, pack_folder, readiness_line, student_edition, targets_of
from qlora_kit.course.notebooks import find_notebooks
from qlora_kit.course.workshop import install
from qlora_kit.course.workshop.folder import _describe
from qlora_kit.course.workshop.wheelhouse import Target, _pip_settings, collect
from qlora_kit.machine import Check, cache_home

ROOT = Path(__file__).parents[2]
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def wheel(folder, name, *requires, version="1.0", tag="py3-none-any"):
    """A package with nothing in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        )
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip sees only a folder of stand-in wheels."""
    shelf = tmp_path / "shelf"
    wheel(shelf, "base", 'onlywin; sys_platform == "win32"', "deep[more]>=1")
    wheel(shelf, "deep", 'extra_thing; extra == "more"', "base")
    wheel(shelf, "deep", version="2.0")
    wheel(shelf, "extra_thing")
    wheel(shelf, "onlywin", tag="cp312-cp312-win_amd64")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


def names(folder):
    return sorted(path.name.split("-")[0] for path in folder.glob("*.whl"))


def test_requirements_are_followed_with_the_other_machines_answers(index, tmp_path):
    kit = wheel(tmp_path / "kit", "kit", "base", 'never; extra == "other"')
    pins = tmp_path / "constraints.txt"
    pins.write_text("# a comment\nDeep == 1.0\n")
    collect(index, kit, ["course"], Target("3.11", "linux"), pins)
    assert names(index) == ["base", "deep", "extra_thing"]
    assert (index / "deep-1.0-py3-none-any.whl").exists()
    collect(index, kit, ["course"], Target("3.12", "windows"), pins)
    assert names(index) == ["base", "deep", "extra_thing", "onlywin"]


def test_a_missing_wheel_is_named_with_its_machine(index, tmp_path):
    kit = wheel(tmp_path / "kit", "kit", "base")
    with pytest.raises(KitError, match=r"no wheel of onlywin.* for Python 3.13 on windows"):
        collect(index, kit, [], Target("3.13", "windows"), ROOT / "constraints.txt")


def test_a_mac_is_as_new_as_its_wheels(index, tmp_path):
    wheel(tmp_path / "shelf", "onlymac", tag="cp312-cp312-macosx_14_0_arm64")
    kit = wheel(tmp_path / "kit", "kit", "onlymac")
    collect(index, kit, [], Target("3.12", "mac"), ROOT / "constraints.txt")
    assert names(index) == ["onlymac"]


def test_uv_is_told_pips_index_where_no_other_user_sees_it(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://ann:secret@example.org/simple")
    variables, options = _pip_settings()
    assert variables["UV_DEFAULT_INDEX"] == "https://ann:secret@example.org/simple"
    assert options == ["--no-index"]


def test_targets_are_this_machine_and_those_that_were_named(tmp_path):
    found = targets_of(["windows"], ["3.12"])
    assert found[0].python == HERE
    assert {(one.python, one.platform) for one in found} >= {(HERE, "windows"), ("3.12", "windows")}
    with pytest.raises(KitError, match="no platform 'amiga'"):
        targets_of(["amiga"], [])
    with pytest.raises(KitError, match="no version of Python"):
        targets_of([], ["three"])
    with pytest.raises(KitError, match="top of the repository"):
        pack_folder(tmp_path / "out", tmp_path, ROOT / "notebooks", found)


def test_the_student_edition_has_no_solutions(tmp_path):
    copied = student_edition(ROOT / "notebooks", tmp_path / "out")
    assert [path.name for path in copied] == [p.name for p in find_notebooks(ROOT / "notebooks")]
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert not {name for name in files if "solution" in name or "TEACHING" in name}
    assert "profiles/smoke.yaml" in files
    assert not any("solutions/" in path.read_text() for path in copied)
    with pytest.raises(KitError, match="there already"):
        student_edition(ROOT / "notebooks", tmp_path / "out")


def test_outputs_may_hold_answers(tmp_path):
    import nbformat
    from nbformat import v4

    cell = v4.new_code_cell("1", outputs=[v4.new_output("stream", text="42")])
    (tmp_path / "profiles").mkdir()
    nbformat.write(v4.new_notebook(cells=[cell]), tmp_path / "01_a.ipynb")
    with pytest.raises(KitError, match="may hold answers"):
        student_edition(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folder(tmp_path):
    """A packed folder with one file, and its install.py."""
    made = tmp_path / "pack"
    made.mkdir()
    (made / "lesson.txt").write_text("one")
    _describe(made, targets_of([], []), ["course"])
    sums = f"{install.digest(made / 'lesson.txt')}  lesson.txt\n"
    (made / "SHA256SUMS").write_text(sums)
    source = Path(install.__file__).read_bytes()
    (made / "install.py").write_bytes(source)
    return made


def refuse(folder):
    command = [sys.executable, str(folder / "install.py"), "--to", str(folder.parent / "home")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (folder.parent / "home").exists()
    return done.stderr


def test_a_damaged_file_is_named_before_anything_is_installed(folder):
    (folder / "lesson.txt").write_text("two")
    assert "1 files are missing or damaged: lesson.txt" in refuse(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"python": "3.99"}, "Run install.py with Python 3.99"),
        ({"machine": "pdp11"}, "ask for a folder that was packed for it"),
    ],
)
def test_another_python_or_machine_is_told_so(folder, change, said):
    told = json.loads((folder / "pack.json").read_text())
    told["targets"] = [told["targets"][0] | change]
    (folder / "pack.json").write_text(json.dumps(told))
    assert said in refuse(folder)


def test_a_full_disk_is_told_so(folder):
    told = json.loads((folder / "pack.json").read_text())
    (folder / "pack.json").write_text(json.dumps({**told, "needs_gb": 1e9}))
    assert "Make room" in refuse(folder)


def test_installing_again_keeps_what_the_student_wrote(tmp_path):
    (tmp_path / "from").mkdir()
    for name in ("a", "b"):
        (tmp_path / "from" / name).write_text("new")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/a").write_text("mine")
    install.copy_missing(tmp_path / "from", tmp_path / "to")
    assert [(tmp_path / "to" / name).read_text() for name in ("a", "b")] == ["mine", "new"]


def test_this_machine_is_ready(tmp_path):
    checks = check_machine(tmp_path)
    assert readiness_line(checks) == "ready", checks
    assert {"smollm2", "minilm", "data", "folder", "answer"} <= {check.name for check in checks}


def test_without_a_model_it_is_not_ready_and_says_what_to_do(tmp_path, monkeypatch):
    there = cache_home() / "minilm"
    monkeypatch.setenv("QLORA_KIT_CACHE", str(tmp_path))
    (tmp_path / "minilm").symlink_to(there)
    checks = check_machine(tmp_path / "nowhere")
    failed = {check.name: check for check in checks if check.status == "fail"}
    assert set(failed) == {"smollm2", "folder"}
    assert readiness_line(checks) == "not ready: 2 things to do"
    assert "install.py" in failed["smollm2"].fix
    assert (
        readiness_line([Check("a", "fail", ""), Check("b", "slow", "")])
        == "not ready: one thing to do"
    )
