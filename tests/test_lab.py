"""The course in JupyterLab, in a real browser, as a learner meets it."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.lab import Lab, make_lab, needed

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
    with make_lab(home) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        opened = Lab(page, home)
        opened.ready()
        yield opened


def move_each_control(lab, cell):
    """Choose another value with the keyboard; the figure must follow each time."""
    controls = cell.locator("select")
    controls.first.wait_for()
    for control in controls.all():
        figure = cell.locator(".jupyter-widgets img")
        before, words = figure.get_attribute("src"), figure.get_attribute("alt")
        control.focus()
        lab.page.keyboard.press("ArrowDown")
        lab.page.wait_for_function("([e, old]) => e.src !== old", arg=[figure.element_handle(), before])
        assert words
    return controls.count()


def test_it_opens_at_the_first_lesson_and_asks_nothing(lab):
    lab.front.get_by_role("heading", name="00 · Start here").wait_for()
    assert "Python 3" in lab.front.locator(".jp-KernelName").inner_text()
    assert not lab.page.locator(".jp-Dialog, .Toastify__toast").count()


@pytest.mark.parametrize(("lesson", "text"), WIDGETS.items())
def test_each_control_moves_its_figure(lab, lesson, text):
    lab.open(lesson)
    for index in needed(lab.path, text):
        cell = lab.run(index)
    assert move_each_control(lab, cell) == {"01_quantization": 2, "02_lora": 1, "03_qlora": 4}[lesson]
    assert not lab.problems()
