"""The parts of a self-contained HTML page."""

import html
from collections.abc import Iterable

PAGE_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1c1c1c;background:#fff}table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{text-align:left;
vertical-align:top;padding:.4rem .7rem;border-bottom:1px solid #ddd}th{background:#f4f4f4}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}img{max-width:100%}
pre{white-space:pre-wrap;background:#f4f4f4;padding:1rem}.wide{overflow-x:auto}
"""


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: bool = False) -> str:
    """An HTML table, its cells escaped.

    Args:
        head: the column titles.
        rows: the cells of each row.
        numbers: set all columns but the first as numbers.
    """
    mark = " class=n" if numbers else ""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{mark if index else ''}>{html.escape(cell)}</td>" for index, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"
