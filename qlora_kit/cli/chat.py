"""`qlora-kit chat`."""

import json
from contextlib import suppress
from typing import Annotated

import typer

from .. import KitError
from .options import Json


def chat(
    run: Annotated[str, typer.Argument(help="A run folder, or a server's http://...")],
    prompt: Annotated[str | None, typer.Option(help="Ask this once and leave.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    base: Annotated[bool, typer.Option(help="Talk to the base model instead.")] = False,
    model: Annotated[str | None, typer.Option(help="Of a server: the adapter's name.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="That a server wants.", envvar="QLORA_KIT_API_KEY")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Where an answer is cut.", min=1)] = 200,
    as_json: Json = False,
) -> None:
    """Talk to a tuned model; an empty line or Ctrl-D ends it."""
    from ..serve import open_session

    if prompt is not None and not prompt.strip():
        raise KitError("The prompt is empty.")
    with open_session(run, system, base, max_new_tokens, model, api_key) as session:
        if prompt is None:
            with suppress(EOFError):
                while question := input("you> ").strip():
                    print(f"model> {session.ask(question).text}")
            return
        answer = session.ask(prompt)
    record = {"prompt": prompt, "answer": answer.text, "stopped": answer.stopped}
    print(json.dumps(record, ensure_ascii=False) if as_json else answer.text)
