"""Fine-tune a large language model with QLoRA on modest hardware, and see that it worked."""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from importlib.metadata import version

# At its first import it advises to install a kernel that the kit has no use for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"


class KitError(Exception):
    """What went wrong, where, and what to do about it: shown to people without a traceback."""


def _renew_pyarrow() -> None:
    """Where pip has replaced the pyarrow that is loaded, let the next import find the new one.

    Colab's kernel loads pandas, and so pyarrow, before the first cell. TRL needs a newer one, and
    half of each does not import ("size changed"): the kernel would have to be restarted. A library
    is known by its path, so the new files are given another one. pandas keeps what it has.
    """
    loaded = sys.modules.get("pyarrow")
    if loaded is None or loaded.__version__ == version("pyarrow"):
        return
    folder = tempfile.mkdtemp(prefix="qlora-kit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.symlink(os.path.dirname(loaded.__file__ or ""), os.path.join(folder, "pyarrow"))
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        del sys.modules[name]
    sys.path.insert(0, folder)


_renew_pyarrow()
