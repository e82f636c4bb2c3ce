"""What training can end with; importable without the libraries that train."""

from .. import KitError


class DivergedError(KitError):
    """The loss became NaN, infinite, or several times what it began with."""
