import pytest

from qlora_kit import KitError, plots
from qlora_kit.plots import figures


def test_the_moving_mean_looks_back_only():
    assert figures.moving_mean([4, 2, 0, 6], 2) == [4, 3, 1, 3]


def test_a_run_without_a_step_has_no_loss_to_draw(tmp_path):
    with pytest.raises(KitError, match="no step yet"):
        plots.loss_curve([], tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()
    metrics = [{"step": 1, "loss": 2.0}]
    assert plots.loss_curve(metrics, tmp_path / "loss.png").alt.endswith("from 2.00 to 2.00.")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
