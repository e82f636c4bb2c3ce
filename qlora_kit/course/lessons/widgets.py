"""Figures that one can move, with a plain figure wherever nothing can move.

A live notebook shows controls; a run through papermill, a rendered page and GitHub show the
figure for the first choices. No page is ever empty.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from ... import KitError, plots
from ...from_scratch import dequantize_4bit, low_rank, quantize_4bit, rank_errors
from ...plots import bundle
from .claims import COURSE_VARIABLE

_VIEW = "application/vnd.jupyter.widget-view+json"


def explore(draw: Callable[..., Any], **choices: Sequence[Any]) -> None:
    """Show a figure with one slider for each of its settings.

    Args:
        draw: makes the figure from one value for each setting.
        choices: the values of each setting; the first is shown at the start.

    Raises:
        KitError: no settings, or one without values.
    """
    from IPython.display import display

    if not choices or not all(choices.values()):
        raise KitError("explore needs at least one setting, each with its values.")
    first = draw(**{name: values[0] for name, values in choices.items()})
    if os.environ.get(COURSE_VARIABLE):
        display(first)
        return
    still, metadata = bundle(first)
    panel = _panel(draw, first, choices)
    # What ipywidgets 8 shows of itself; Colab still ships 7, which only shows itself at once.
    live = {_VIEW: {"version_major": 2, "version_minor": 0, "model_id": panel.model_id}}
    display({**live, **still}, metadata=metadata, raw=True)


def _panel(draw: Callable[..., Any], first: Any, choices: dict[str, Sequence[Any]]) -> Any:
    """Sliders over a picture that is drawn anew when one of them moves.

    Sliders, since the arrow keys must move them: JupyterLab takes those keys from lists and radio
    buttons, to go from cell to cell.
    """
    import ipywidgets
    from markupsafe import Markup

    picture = ipywidgets.HTML(bundle(first)[0]["text/html"])
    sliders = {
        name: ipywidgets.SelectionSlider(
            options=[(str(value), value) for value in values],
            description=name.replace("_", " "),
            continuous_update=False,
            style={"description_width": "9em"},
            layout={"width": "28em"},
        )
        for name, values in choices.items()
    }

    def redraw(_: Any) -> None:
        try:
            figure = draw(**{name: slider.value for name, slider in sliders.items()})
            picture.value = bundle(figure)[0]["text/html"]
        except KitError as problem:
            picture.value = Markup("<p>{}</p>").format(str(problem))

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    return ipywidgets.VBox([*sliders.values(), picture])


def explore_quantization(weights: Any) -> None:
    """Move the data type and block size on real weights; see which values are left.

    Args:
        weights: a tensor, for example one layer's weight.
    """

    def draw(quant_type: str, block_size: int) -> Any:
        piece = weights.detach().float()
        restored = dequantize_4bit(quantize_4bit(piece, quant_type, block_size))
        error = (restored - piece).norm() / piece.norm()
        title = f"{quant_type}, blocks of {block_size}: relative error {error:.4f}"
        return plots.density(restored - piece, title, "rounding error (weight units)")

    explore(
        draw,
        quant_type=["nf4", "fp4", "int4"],
        block_size=[64, 32, 128, 256, 512, 1024, 2048, 4096],
    )


def explore_rank(W: Any) -> None:
    """Move the rank of an approximation; see the error and the parameters.

    Args:
        W: (out, in), the matrix to approximate.
    """
    import torch

    errors = rank_errors(W)
    size = 64  # the picture's corner

    def draw(rank: int) -> Any:
        B, A = low_rank(W, rank)
        share = rank * (W.shape[0] + W.shape[1]) / W.numel()
        shown = {
            "the matrix": W[:size, :size],
            f"rank {rank}": torch.as_tensor(B @ A)[:size, :size],
        }
        title = f"rank {rank}: {share:.1%} of the parameters, relative error {errors[rank]:.3f}"
        return plots.matrices(shown, title)

    explore(draw, rank=[r for r in (8, 1, 2, 4, 16, 32, 64, 128, 256) if r <= min(W.shape)])


def explore_memory() -> None:
    """Move model, sequence length, batch and rank; see where the bytes go and what they fit on."""
    from ...memory import GPUS, Workload, find_shape, plan

    def draw(model: str, sequence_length: int, batch: int, rank: int) -> Any:
        settings = Workload(sequence_length=sequence_length, batch=batch, rank=rank)
        breakdown = plan(find_shape(model), settings, gpu="H200").breakdown
        fits = [name for name in GPUS if plan(find_shape(model), settings, gpu=name).fits]
        title = f"{model}: fits on " + (", ".join(fits[:3]) + " ..." if fits else "none of ours")
        parts = {name: size / 1e9 for name, size in breakdown.items()}
        return plots.stacked({model: parts}, title, "peak memory (GB)")

    models = "Llama-3.1-8B SmolLM2-135M Qwen2.5-1.5B Qwen2.5-7B Llama-2-13B Llama-2-70B"
    explore(
        draw,
        model=models.split(),
        sequence_length=[512, 1024, 2048, 4096, 8192],
        batch=[1, 2, 4, 8],
        rank=[16, 8, 32, 64],
    )
