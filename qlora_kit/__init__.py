"""Fine-tune a large language model with QLoRA on modest hardware, and see that it worked."""

__version__ = "0.1.0"


class KitError(Exception):
    """What went wrong, where, and what to do about it: shown to people without a traceback."""
