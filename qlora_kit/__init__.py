"""Fine-tune a large language model with QLoRA on modest hardware, and see that it worked."""

import logging

# At its first import it advises to install a kernel that the kit has no use for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"


class KitError(Exception):
    """What went wrong, where, and what to do about it: shown to people without a traceback."""
