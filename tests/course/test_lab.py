"""The course in JupyterLab, in a real browser, as a learner meets it."""

import pytest
from playwright.sync_api import expect

from tests.tools.lab import CELL_MS, Lab, make_lab, needed

WIDGETS = {
    "01_quantization": "explore_quantization(",
    "02_lora": "explore_rank(",
    "03_qlora": "explore_memory(",
}
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """JupyterLab as `make lab` opens it."""
    home = tmp_path_factory.mktemp("lab")
    short = {"ranks": [2], "steps": 6, "held_out": 4}  # one bar is enough
    with make_lab(home, **{"02_lora": short}) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        opened = Lab(page, home)
        opened.ready()
        yield opened


def move_each_control(lab, cell):
    """Move each slider with the keyboard; the figure must follow each time."""
    controls, figure = cell.get_by_role("slider"), cell.locator(".jupyter-widgets img")
    figure.wait_for()
    for control in controls.all():
        before, words = figure.get_attribute("src"), figure.get_attribute("alt")
        control.focus()
        lab.page.keyboard.press("ArrowRight")
        expect(figure).not_to_have_attribute("src", before, timeout=CELL_MS)
        expect(figure).not_to_have_attribute("alt", words)
    return controls.count()


def test_it_opens_at_the_first_lesson_and_asks_nothing(lab):
    lab.front.get_by_role("heading", name="00 · Start here").wait_for()
    assert "Python 3" in lab.front.locator(".jp-KernelName").inner_text()
    assert not lab.page.locator(".jp-Dialog, .Toastify__toast").count()


@pytest.mark.parametrize(("lesson", "text"), WIDGETS.items())
def test_each_control_moves_its_figure(lab, lesson, text):
    count = {"01_quantization": 2, "02_lora": 1, "03_qlora": 4}[lesson]
    lab.open(lesson)
    for index in needed(lab.path, text):
        cell = lab.run(index)
    assert move_each_control(lab, cell) == count
    assert not lab.problems()


def test_an_exercise_answers_a_wrong_and_a_right_answer(lab):
    """From a fresh start: the whole lesson first, then its first exercise."""
    lab.open("00_start_here")
    lab.run_all()
    assert not lab.problems()
    assert lab.front.locator(".jp-OutputArea img").count() >= 2
    stub, check = lab.place("gigabytes = ..."), lab.place('check("00.1"')
    assert "your turn" in lab.cell(check).inner_text()
    for answer, said in (("3.5", "not yet. The codes take 4 bits"), ("7 * 4.127 / 8", "right.")):
        lab.write(stub, f"gigabytes = {answer}")
        lab.run(stub)
        expect(lab.run(check).locator(".jp-OutputArea")).to_contain_text(said)


def test_a_progress_bar_moves(lab):
    """Lesson 02's training: a bar that stands still looks like a kernel that hangs."""
    lab.open("02_lora")
    *before, training = needed(lab.path, "train_and_score(r)")
    for index in before:
        lab.run(index)
    bars = lab.start(training).locator(".widget-hprogress .progress-bar")
    bars.first.wait_for(state="attached")  # it has no width yet
    seen = set()
    while lab.cell(training).locator(".jp-InputPrompt").inner_text() == "[*]:":
        seen.add(bars.first.evaluate("bar => bar.style.width"))
        lab.page.wait_for_timeout(200)
    assert len(seen) > 3, seen
    assert not lab.problems()


@pytest.mark.browser
@pytest.mark.parametrize(("lesson", "text"), WIDGETS.items())
def test_a_whole_lesson(browser, tmp_path, lesson, text):
    """All cells in the profile smoke, then each control (`make browser`: minutes a lesson)."""
    with make_lab(tmp_path) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        lab = Lab(page, tmp_path)
        lab.ready()
        lab.open(lesson)
        lab.run_all()
        assert move_each_control(lab, lab.cell(lab.place(text)))
        assert not lab.problems()
        cells = lab.saved().cells
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
        page.close()
