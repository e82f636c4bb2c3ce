"""What several verbs of the command line share."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from ..runs import describe_fields

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Command = TypeVar("Command", bound=Callable[..., None])


def console() -> Any:
    """A rich console, made where it is needed: rich takes a tenth of a second to load."""
    from rich.console import Console

    return Console()


def with_fields(
    settings: type, *arguments: str, without: str = "", defaults: bool = True
) -> Callable[[Command], Command]:
    """A command that takes a dataclass's fields as options, each None where it is not given.

    Args:
        settings: the dataclass; its docstring has the options' help, see `describe_fields`.
        arguments: the fields that are given by their place instead of by name.
        without: fields that the command does not take, with spaces.
        defaults: show the dataclass's; not where a machine has others.
    """
    help_texts = describe_fields(settings)
    types = get_type_hints(settings)
    fields = [f for f in dataclasses.fields(settings) if f.name not in without.split()]

    def parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
        text = help_texts[field.name].split(". ")[0].rstrip(".") + "."
        known = defaults and field.default not in (None, dataclasses.MISSING)
        default = str(field.default) if known else False
        if field.name in arguments:
            info: Any = typer.Argument(help=text)
        else:
            info = typer.Option(help=text, show_default=default)
        annotation = Annotated[_plain_type(types[field.name]) | None, info]  # type: ignore[valid-type]
        return inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
        parameters = [*map(parameter, fields), *keywords]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _plain_type(hint: Any) -> Any:
    """str, int, float or bool of a hint such as `Literal["a"] | None`."""
    if get_origin(hint) is Literal:
        return str
    inner = get_args(hint)
    return _plain_type(inner[0]) if inner else hint
