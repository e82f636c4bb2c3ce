"""Every notebook of the course, from top to bottom in a fresh kernel, in the smoke profile.

This guards against a course that runs and checks nothing: a notebook must pass, must have made
at least one claim, and its metrics must be in the bands of tests/baselines/smoke.json.
"""

import shutil
from pathlib import Path

import pytest

from qlora_kit.course import read_baseline, run_course
from qlora_kit.course.baselines import against_baseline
from qlora_kit.course.notebooks import find_notebooks

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
STEMS = [path.stem for path in find_notebooks(NOTEBOOKS)] if list(NOTEBOOKS.glob("*.ipynb")) else []
CELL_SECONDS = 600

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("course")


@pytest.mark.parametrize("stem", STEMS[::-1])  # the last ones take longest
def test_notebook(stem, out):
    run = run_course(
        [stem], "smoke", out, NOTEBOOKS, CELL_SECONDS, baselines=ROOT / "tests/baselines"
    )
    result = run.notebooks[stem]
    assert result.passed, f"{result.status}: {result.message}"
    assert result.claims, "it made no claim"
    expected = read_baseline(ROOT / "tests/baselines/smoke.json")
    metrics = against_baseline(run, {stem: expected.get(stem, {})})
    moved = [m for m in metrics if m.notebook == stem and m.failed]
    assert not moved, "\n".join(f"{m.name} {m.status}: {m.measured}, {m.expected}" for m in moved)


def test_wrong_codes_from_bitsandbytes_turn_the_right_claims_red(tmp_path, monkeypatch):
    """A release that packs other codes must be named by its claim, and the others still told."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import bitsandbytes.functional as functional\n"
        "right = functional.quantize_4bit\n"
        "def wrong(*args, **kwargs):\n"
        "    packed, state = right(*args, **kwargs)\n"
        "    return packed ^ 1, state\n"
        "functional.quantize_4bit = wrong\n"
    )
    folder = tmp_path / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    shutil.copy(NOTEBOOKS / "01_quantization.ipynb", folder)
    (folder / "profiles/smoke.yaml").write_text("01_quantization: {perplexity_tokens: 256}\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    run = run_course(["01"], "smoke", tmp_path / "out", folder, CELL_SECONDS)
    result = run.notebooks["01_quantization"]
    assert result.status == "failed"
    assert "by_hand_equals_bitsandbytes" in result.message
    red = {claim.name for claim in result.claims if not claim.held}
    assert red == {"by_hand_equals_bitsandbytes"}
    assert "by_hand_equals_bitsandbytes" in (tmp_path / "out/report.html").read_text()
