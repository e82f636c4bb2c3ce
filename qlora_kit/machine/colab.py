"""What Colab needs: its kernel has loaded packages before the first cell installs others."""

import atexit
import os
import shutil
import sys
import tempfile
from importlib.metadata import version


def renew_pyarrow() -> None:
    """Where pip has replaced the pyarrow that is loaded, let the next import find the new one.

    Colab's kernel loads pandas, and so pyarrow, before the first cell. The kit installs a newer
    one, and half of each does not import ("size changed"): the kernel would have to be restarted.
    A library is known by its path, so the new files are given another one. pandas keeps what it
    has.
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
