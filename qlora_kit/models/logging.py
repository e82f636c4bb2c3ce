"""The libraries' own bars, advice and telemetry, switched off where the kit knows better."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Inside, these loggers tell of errors and of nothing less.

    Args:
        names: of the loggers.
    """
    levels = {getLogger(name): getLogger(name).level for name in names}
    for logger in levels:
        logger.setLevel(ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def quiet(warn: bool = False) -> Iterator[None]:
    """Inside, the libraries show no bars of their own and no advice about choices made here.

    Args:
        warn: let Python's warnings through, as during hours of training.
    """
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), errors_only("bitsandbytes"):
            if not warn:
                warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
