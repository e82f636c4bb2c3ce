"""Every notebook of the course, from top to bottom in a fresh kernel, in the smoke profile.

This guards against a course that runs and checks nothing: a notebook must pass, must have made
at least one claim, and its metrics must be in the bands of tests/baselines/smoke.json.
"""

from pathlib import Path

import pytest

from qlora_kit.baselines import against_baseline, read_baseline
from qlora_kit.course import run_course
from qlora_kit.profiles import find_notebooks

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
STEMS = [path.stem for path in find_notebooks(NOTEBOOKS)] if list(NOTEBOOKS.glob("*.ipynb")) else []
CELL_SECONDS = 600

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("course")


@pytest.mark.parametrize("stem", STEMS)
def test_notebook(stem, out):
    run = run_course(
        [stem], "smoke", out, NOTEBOOKS, CELL_SECONDS, baselines=ROOT / "tests/baselines"
    )
    result = run.notebooks[stem]
    assert result.passed, f"{result.status}: {result.message}"
    assert result.claims, "it made no claim"
    expected = read_baseline(ROOT / "tests/baselines/smoke.json")
    verdicts = against_baseline(run, {stem: expected.get(stem, {})})
    moved = [v for v in verdicts if v.notebook == stem and v.failed]
    assert not moved, "\n".join(f"{v.metric} {v.word}: {v.measured}, {v.expected}" for v in moved)
