"""Self-contained HTML: jinja2 escapes every text, and lets through what is `Markup` already."""

from collections.abc import Iterable
from typing import Any

from jinja2 import Template
from markupsafe import Markup

_PAGE = """<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content='width=device-width'><title>{{ title }}</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1c1c1c;background:#fff}table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{text-align:left;
vertical-align:top;padding:.4rem .7rem;border-bottom:1px solid #ddd}th{background:#f4f4f4}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}img{max-width:100%}
pre{white-space:pre-wrap;background:#f4f4f4;padding:1rem}.wide{overflow-x:auto}
</style><h1>{{ title }}</h1>{{ body }}</html>
"""
_TABLE = """<div class=wide><table>
<tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row -%}
<td{{ " class=n" if numbers and not loop.first }}>{{ cell }}</td>
{%- endfor %}</tr>{% endfor %}
</table></div>"""
_PICTURE = '<img src="data:image/png;base64,{{ data }}" alt="{{ alt }}" style="max-width:100%">'


def html_page(title: str, body: str, /, **values: Any) -> str:
    """A whole page in the kit's style, which needs nothing beside it.

    Args:
        title: of the page, and its heading.
        body: a jinja2 template for what stands below the heading; `html_table` and `picture` can
            be called in it.
        values: what the template names. Text is escaped; what is `markupsafe.Markup` is not.

    Returns:
        The page's HTML.
    """
    helpers = {"html_table": html_table, "picture": picture}
    content = _render(body, **helpers | values)
    return _render(_PAGE, title=title, body=content) + "\n"


def _render(template: str, /, **values: Any) -> Markup:
    """A piece of HTML that other templates let through as it is."""
    return Markup(Template(template, autoescape=True).render(values))


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: bool = False) -> Markup:
    """An HTML table, its cells escaped.

    Args:
        head: the column titles.
        rows: the cells of each row.
        numbers: set all columns but the first as numbers.
    """
    return _render(_TABLE, head=head, rows=rows, numbers=numbers)


def picture(data: str, alt: str) -> Markup:
    """An HTML image that brings its pixels and its text along.

    Args:
        data: a PNG in base64.
        alt: says what the picture shows, for those who cannot see it.
    """
    return _render(_PICTURE, data=data, alt=alt)
