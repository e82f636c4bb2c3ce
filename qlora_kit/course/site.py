"""The course as a web site: a run's lessons with their outputs, for any host of plain files.

Sphinx and myst-nb render; here the notebooks are made ready for them. Nothing on a page comes from
another host: figures travel in the page, formulas become MathML, the theme brings its own fonts.
"""

import io
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import KitError
from ..machine import write_text
from ..plots import picture
from .extras import needs_extra
from .lessons.claims import CLAIM_MIME, METRIC_MIME
from .notebooks import read_notebook, write_notebook
from .report import EXECUTED, figure_of
from .results import CourseRun, read_run

TITLE = "QLoRA, by doing it"
MARK = ".qlora-kit-site"  # marks a folder that a later build may replace
_ICON = (  # four bits, one of them zero
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="#1f4e79" '
    'd="M1 1h6v6H1zM9 1h6v6H9zM1 9h6v6H1z"/><path fill="#9a9a9a" d="M9 9h6v6H9z"/></svg>'
)
_STYLE = "span.highlighted{background:#fbe54e!important;color:#000!important}\n"  # also in the dark
_REMOTE_IMAGE = re.compile(r"!\[([^\]]*)\]\(https?://[^)\s]*\)")
_LESSON_LINK = re.compile(r"\[([^\]]*)\]\((\d\d_\w+)\.ipynb[^)]*\)")
_COLOR = re.compile(r"\x1b\[[\d;]*m")
_INDEX = """# {{ title }}

A real language model, real 4-bit weights, and every number on these pages computed by the cell
above it. The notebooks are the same: open one, change something, run it.

| lesson | you will | claims held | minutes |
|---|---|---:|---:|
{% for name, (title, promise, result) in rows.items() -%}
| [{{ title }}]({{ name }}.ipynb) | {{ promise -}}
{{ " | " ~ result.claims_held }} | {{ "%.1f" % result.minutes }} |
{% endfor %}
## How these pages were made

One run in profile `{{ run.profile }}` on {{ run.machine }}, with {{ versions }}.

```{toctree}
:hidden:

{{ rows | join("\n") }}
```
"""
_SETTINGS: dict[str, Any] = {
    "project": TITLE,
    "author": "",
    "html_title": TITLE,
    "html_favicon": "icon.svg",
    "html_static_path": ["files"],
    "html_css_files": ["course.css"],
    "html_theme": "sphinx_book_theme",
    "html_theme_options": {
        "show_toc_level": 2,
        "home_page_in_toc": True,
        "use_download_button": False,
        "navbar_persistent": [],  # the sidebar has the search
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
    },
    "html_show_sphinx": False,
    "html_show_copyright": False,
    "html_copy_source": False,
    "html_show_sourcelink": False,
    "html_use_index": False,
    "html_math_renderer": "mathml",
    "extensions": ["myst_nb", "qlora_kit.course.site"],
    "myst_enable_extensions": ["dollarmath"],
    "nb_execution_mode": "off",
    "nb_merge_streams": True,
    "language": "en",
}


def build_site(run: Path, out: Path) -> Path:
    """Make a static site from an executed run of the course, with however many lessons it has.

    Args:
        run: the run's folder, from `run_course`.
        out: the site's folder; an earlier site in it is replaced.

    Returns:
        The first page.

    Raises:
        KitError: there is no run or no executed notebook, `out` holds something else, or a page
            cannot be rendered.
    """
    results = read_run(run)
    paths = (run / EXECUTED / f"{name}.ipynb" for name in results.notebooks)
    lessons = [path for path in paths if path.exists()]
    if not lessons:
        raise KitError(
            f"{run / EXECUTED} holds no executed notebook. Make them with: qlora-kit course run"
        )
    if out.exists() and not out.is_dir():
        raise KitError(f"{out} is a file. Give a folder with --out.")
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise KitError(f"{out} holds something that is no site of ours. Give another --out.")
    with tempfile.TemporaryDirectory() as scratch:
        source, pages = Path(scratch) / "source", Path(scratch) / "pages"
        source.mkdir()
        _write_source(results, lessons, source)
        _render(source, pages)
        (pages / MARK).touch()
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(pages, out, ignore=shutil.ignore_patterns(".buildinfo", "objects.inv"))
    return out / "index.html"


def _write_source(run: CourseRun, lessons: Sequence[Path], source: Path) -> None:
    from jinja2 import Template

    names, rows = {path.stem for path in lessons}, {}
    for path in lessons:
        notebook = readable(read_notebook(path), names)
        write_notebook(notebook, source / path.name)
        title, _, rest = notebook.cells[0].source.partition("\n")
        promise = next((line for line in rest.splitlines() if line.strip()), "")
        rows[path.stem] = title.lstrip("# "), promise, run.notebooks[path.stem]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    index = Template(_INDEX).render(title=TITLE, rows=rows, run=run, versions=versions)
    write_text(source / "index.md", index)
    write_text(source / "icon.svg", _ICON)
    (source / "files").mkdir()
    write_text(source / "files/course.css", _STYLE)


def readable(notebook: Any, lessons: set[str]) -> Any:
    """An executed notebook as a page can show it; the given one is changed.

    Args:
        notebook: from `read_notebook`.
        lessons: the names of all that become pages; links to others become their text.
    """
    from nbformat import from_dict

    notebook.metadata = from_dict(
        {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    )
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = _REMOTE_IMAGE.sub(r"\1", cell.source)
            cell.source = _LESSON_LINK.sub(
                lambda link: link[0] if link[2] in lessons else link[1], text
            )
        elif cell.cell_type == "code":
            cell.outputs = [output for output in map(_readable_output, cell.outputs) if output]
    return notebook


def _readable_output(output: Any) -> Any:
    """A figure with its words, a claim as text; no progress bar, which stands still on a page."""
    from nbformat.v4 import new_output

    data = output.get("data", {})
    if CLAIM_MIME in data or METRIC_MIME in data:
        return new_output("stream", name="stdout", text=f"{data['text/plain']}\n")
    if figure := figure_of(output):
        output.data = {"text/html": str(picture(figure.png, figure.alternative))}
    elif any(mime.startswith("application/vnd.jupyter.widget") for mime in data):
        return None
    return output


def _render(source: Path, pages: Path) -> None:
    with needs_extra("The site", "site"):
        from sphinx.application import Sphinx
        from sphinx.errors import SphinxError
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    warnings = io.StringIO()
    try:
        # What Sphinx registers with docutils leaves with it: a second site in this process is the
        # same as the first.
        with patch_docutils(), docutils_namespace():
            doctrees = source.parent / "doctrees"
            options = {"status": None, "warning": warnings, "freshenv": True}
            app = Sphinx(source, None, pages, doctrees, "html", _SETTINGS, **options)
            app.build()
    except (SphinxError, ImportError) as problem:
        raise KitError(f"The pages cannot be made: {problem}") from problem
    if app.statuscode or warnings.getvalue():
        raise KitError(f"The pages cannot be made: {_COLOR.sub('', warnings.getvalue()).strip()}")


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's hook for extensions: formulas as MathML, which browsers draw and read aloud.

    Args:
        app: Sphinx.
    """
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _formula(translator: Any, node: Any) -> None:
    from docutils import nodes
    from latex2mathml.converter import convert

    block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if block else "inline")
    translator.body.append(f'<div class="math" tabindex="0">{formula}</div>' if block else formula)
    raise nodes.SkipNode
