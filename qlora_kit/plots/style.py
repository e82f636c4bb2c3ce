"""A figure as a picture: its style, its pixels, and its words for those who cannot see it."""

import base64
import html
import io
from typing import Any

STYLE = {
    "figure.dpi": 120,
    "savefig.bbox": "tight",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def png(figure: Any) -> bytes:
    """A figure as a PNG picture.

    Args:
        figure: from `new_axes`.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=STYLE["figure.dpi"])
    return buffer.getvalue()


def picture(data: str, alt: str) -> str:
    """An HTML image that brings its pixels and its text along.

    Args:
        data: a PNG in base64.
        alt: says what the picture shows, for those who cannot see it.
    """
    said = html.escape(alt, quote=True)
    return f'<img src="data:image/png;base64,{data}" alt="{said}" style="max-width:100%">'


def bundle(figure: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """What a notebook shows of a figure: its output's data and metadata.

    JupyterLab and Colab give a bare PNG no alternative text, so HTML stands beside it; the PNG is
    for programs that read the notebook.

    Args:
        figure: from `new_axes`.
    """
    data, alt = base64.b64encode(png(figure)).decode(), figure.alt
    told = {"alt": alt, "alttext": alt}  # as our report and as nbconvert read it
    return {"text/html": picture(data, alt), "image/png": data, "text/plain": alt}, {
        "image/png": told
    }
