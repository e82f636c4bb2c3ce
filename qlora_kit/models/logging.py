"""The libraries' own bars, advice and telemetry, switched off where the kit knows better."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def quiet(warn: bool = False) -> Iterator[None]:
    """Inside, the libraries show no bars of their own and no advice about choices made here.

    Args:
        warn: let Python's warnings through, as during hours of training.
    """
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    bitsandbytes = getLogger("bitsandbytes")
    before = bitsandbytes.level
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    bitsandbytes.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            if not warn:
                warnings.simplefilter("ignore")
            yield
    finally:
        bitsandbytes.setLevel(before)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Inside, no library tells its makers about this machine through the Hub's client.

    TRL does in the constructor of each trainer. The client reads its switch at every call, so
    this holds also where TRL was imported before the kit, as an environment variable would not.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before
