"""What only teachers and maintainers install: the kit's extras, asked for where they are used."""

from collections.abc import Iterator
from contextlib import contextmanager

from .. import KitError


@contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Imports inside the block come with an extra of the kit.

    Args:
        what: cannot be done without it, such as "The site".
        extra: its name in pyproject.toml.

    Raises:
        KitError: a package is not installed; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as problem:
        raise KitError(
            f"{what} needs {problem.name}, which is not installed. "
            f"Install it with: pip install 'qlora-kit[{extra}]'"
        ) from problem
