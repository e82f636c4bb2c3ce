"""Chat templates from strangers: shown once on each machine, known by their hash ever after."""

import hashlib
import warnings

from ..machine import recall, remember

_MEMO = "templates.json"
_LONGEST = 4000  # characters shown; chosen by hand


def show_new_template(model: str, template: str | None, own: bool = False) -> None:
    """Show a chat template the first time that this machine meets it.

    It is code that decides what the model reads. transformers runs it in a sandbox; a run pins it
    by its hash, and `qlora-kit verify` says when it changed.

    Args:
        model: whose it is.
        template: its text.
        own: it is a model that the kit brings, so that its template is only remembered, and not
            shown when a model that was trained from it is loaded.
    """
    if not isinstance(template, str) or not template:
        return
    key = hashlib.sha256(template.encode("utf-8", "replace")).hexdigest()
    if key in recall(_MEMO):
        return
    if not own:
        warnings.warn(
            f"The chat template of {model} is new on this machine (shown once, sha256 {key[:12]});"
            f" it writes what the model reads:\n{_printable(template)}",
            stacklevel=2,
        )
    remember(_MEMO, key, model)


def _printable(template: str) -> str:
    more = len(template) - _LONGEST
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in template)
    return text[:_LONGEST] + (f"\n... and {more:,} more characters" if more > 0 else "")
