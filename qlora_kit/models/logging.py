"""The libraries' own bars and advice, switched off where the kit knows better."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the libraries show no bars of their own and no advice about choices made here."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    bitsandbytes = getLogger("bitsandbytes")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    bitsandbytes.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
