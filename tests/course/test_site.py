"""The rendered pages: complete, from one host, on a phone, without barriers."""

import functools
import http.server
import threading

import pytest
from axe_playwright_python.sync_playwright import Axe
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qlora_kit import KitError, plots
from qlora_kit.course import build_site
from qlora_kit.course.lessons.claims import Claim
from qlora_kit.course.results import CourseRun, NotebookResult, write_run
from qlora_kit.data.chat import ColoredTokens
from qlora_kit.plots import bundle

BADGE = "[![Open in Colab](https://example.org/badge.svg)](https://example.org/colab)"
CARD = "| | CPU | T4 | H200 |\n|---|---|---|---|\n| minutes | 0.6 | not measured | 1.0 |"
LONG = "print('" + "a line that a phone cannot hold " * 8 + "')"


def output(data, **metadata):
    return new_output("display_data", data=data, metadata=metadata)


def lesson(number, title, after):
    """An executed lesson with all that a cell can show."""
    data, told = bundle(
        plots.curves({"loss": ([1, 2], [4.0, 1.5])}, "Down", "step", "nats a token")
    )
    painted = ColoredTokens((("What?", False), ("That.", True)))
    bar = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%"}
    claim = {
        "application/vnd.qlora-kit.claim+json": {"name": "down", "held": True, "numbers": {}},
        "text/plain": "✓ down",
    }
    cells = [
        new_markdown_cell(f"# {number} · {title}\n\nYou will see.\n\n{CARD}\n\n{BADGE}\n\n{after}"),
        new_markdown_cell("## A formula\n\nIt is $x \\cdot 2$, and\n\n$$\\sum_{i=1}^n x_i$$"),
        new_code_cell(
            LONG,
            execution_count=1,
            outputs=[
                new_output("stream", name="stdout", text="wide " * 60 + "\n"),
                output(bar),
                output(data, **told),
                output({"text/html": painted._repr_html_()}),
            ],
        ),
        new_markdown_cell("## What you measured"),
        new_code_cell('claim("down", True)', execution_count=2, outputs=[output(claim)]),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return notebook


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two lessons, as `qlora-kit course run` leaves one."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "executed").mkdir()
    done = CourseRun("smoke", {"torch": "2"}, "cpu, 2 cores")
    for name, notebook in {
        "01_first": lesson("01", "First", "After: [02 · Second](02_second.ipynb)"),
        "02_second": lesson("02", "Second", "After: [03 · Third](03_third.ipynb)"),
    }.items():
        write(notebook, folder / f"executed/{name}.ipynb")
        result = NotebookResult("passed", "", 1.5, 1.0, "0", (Claim("down", True, {}),))
        done = done.with_result(name, result)
    write_run(done, folder)
    return folder


@pytest.fixture(scope="module")
def site(run, tmp_path_factory):
    """The site of that run, and its address."""
    folder = tmp_path_factory.mktemp("site")
    build_site(run, folder)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *ignored): ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser, site, request):
    """A page that fails the test when it asks another host for anything, or finds nothing."""
    view = getattr(request, "param", {})
    page = browser.new_page(base_url=site, reduced_motion="reduce", **view)
    strange, missing = [], []
    page.on("request", lambda r: r.url.startswith((site, "data:")) or strange.append(r.url))
    page.on("response", lambda r: r.status < 400 or missing.append(r.url))  # 304 is found, too
    yield page
    page.close()
    assert not strange
    assert not missing


WIDE = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DARK = {**WIDE, "color_scheme": "dark"}


@pytest.mark.parametrize("page", [WIDE, PHONE, DARK], indirect=True, ids=["wide", "phone", "dark"])
@pytest.mark.parametrize("name", ["index", "01_first", "search"])
def test_a_page_has_no_barrier_and_fits(page, name):
    page.goto(f"/{name}.html?q=formula")
    # Without "preload" axe leaves the style sheets alone: it would ask for what they import again.
    found = Axe().run(page, options={"preload": False}).response["violations"]
    grave = [f for f in found if f["impact"] in ("serious", "critical")]
    assert not grave, [(f["id"], [node["html"] for node in f["nodes"]]) for f in grave]
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"]


def test_a_lesson_is_whole(page):
    page.goto("/01_first.html")
    article = page.locator("article")
    assert article.get_by_role("heading", level=1).inner_text().startswith("01 · First")
    assert article.get_by_role("img").get_attribute("alt").startswith("Down. nats a token")
    assert article.locator("math").count() == 2
    assert "✓ down" in article.inner_text()
    assert "0%" not in article.inner_text()  # a progress bar that will never move
    assert article.get_by_role("link", name="Open in Colab").count() == 1
    article.get_by_role("link", name="02 · Second").click()
    assert page.url.endswith("02_second.html")
    assert article.get_by_role("link", name="03 · Third").count() == 0  # not in this run


def test_the_first_page_leads_to_the_lessons_and_says_how_they_were_made(page):
    page.goto("/index.html")
    article = page.locator("article")
    assert "profile smoke on cpu, 2 cores, with torch 2" in article.inner_text()
    assert "1 of 1" in article.inner_text()
    article.get_by_role("link", name="01 · First").first.click()
    assert page.url.endswith("01_first.html")


def test_the_search_finds_a_word_of_an_output(page):
    page.goto("/search.html?q=formula")
    found = page.locator("#search-results a", has_text="02 · Second").first
    found.wait_for()
    assert found.is_visible()


def test_the_keyboard_reaches_dark_mode(page):
    page.goto("/index.html")
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    page.get_by_role("button", name="Color mode").first.focus()
    page.keyboard.press("Enter")
    for _ in ("system", "light", "dark"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function(f"before => {background} !== before", arg=before)
    assert page.evaluate(background) != before


def test_without_a_run_the_way_out_is_said(run, tmp_path):
    with pytest.raises(KitError, match="no run of the course"):
        build_site(tmp_path, tmp_path / "site")
    write_run(CourseRun("smoke", {}, "cpu"), tmp_path)
    with pytest.raises(KitError, match="no executed notebook"):
        build_site(tmp_path, tmp_path / "site")
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(KitError, match="no site of ours"):
        build_site(run, tmp_path)
    assert (tmp_path / "mine").read_text() == "keep me"


def test_a_second_site_in_one_process_is_as_good_as_the_first(run, tmp_path):
    first, second = (build_site(run, tmp_path / name) for name in ("first", "second"))
    lesson = "01_first.html"
    assert (first.parent / lesson).read_text() == (second.parent / lesson).read_text()
