"""Controls where something is live, a figure where nothing is."""

import base64

import pytest
import torch
from IPython.utils.capture import capture_output

from qlora_kit import KitError, plots
from qlora_kit.course.lessons import claims, widgets


def draw(size, kind):
    return plots.bars({kind: size}, f"{kind} {size}", "units")


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: (data, metadata) of each."""
    found = []
    monkeypatch.setattr("IPython.display.display", lambda *o, **k: found.append((o, k)))
    return found


def test_a_static_run_shows_the_first_figure(shown, monkeypatch):
    monkeypatch.setenv(claims.COURSE_VARIABLE, "1")
    widgets.explore(draw, size=[3, 4], kind=["a"])
    [((figure,), _)] = shown
    data, metadata = figure._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert 'alt="a 3' in data["text/html"]
    assert "a 3" in metadata["image/png"]["alt"]


def test_a_live_notebook_shows_controls_and_keeps_the_picture_for_pages(shown, monkeypatch):
    monkeypatch.delenv(claims.COURSE_VARIABLE, raising=False)
    widgets.explore(draw, size=[3, 4], kind=["a"])
    [((bundle,), options)] = shown
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert bundle["image/png"]
    assert "a 3" in options["metadata"]["image/png"]["alt"]


def test_moving_a_slider_draws_anew_and_bad_settings_are_said():
    def fussy(size):
        if size == 5:
            raise KitError("five is <too> many")
        return draw(size, "a")

    panel = widgets._panel(fussy, fussy(3), {"size": [3, 4, 5]})
    slider, picture = panel.children
    before = picture.value
    slider.value = 4
    assert picture.value != before
    assert 'alt="a 4' in picture.value
    slider.value = 5
    assert picture.value == "<p>five is &lt;too&gt; many</p>"


@pytest.mark.parametrize("choices", [{}, {"size": []}])
def test_something_must_move(choices):
    with pytest.raises(KitError, match="each with its values"):
        widgets.explore(draw, **choices)


def test_the_lessons_widgets_draw(monkeypatch):
    monkeypatch.setenv(claims.COURSE_VARIABLE, "1")
    torch.manual_seed(0)
    weights = torch.randn(64, 128)
    with capture_output() as said:
        for show in (
            lambda: widgets.explore_quantization(weights),
            lambda: widgets.explore_rank(weights),
            widgets.explore_memory,
        ):
            show()
    assert not said.stderr
