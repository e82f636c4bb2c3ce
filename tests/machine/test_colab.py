"""What Colab's kernel needs of the kit; `make rehearse` runs the lessons on Colab's packages."""

import subprocess
import sys

KERNEL = """
import pathlib, sys
import pyarrow.part
assert pyarrow.__version__ == pyarrow.part.release == "1"
pathlib.Path(pyarrow.__file__).write_text("__version__ = '2'")
pathlib.Path(pyarrow.part.__file__).write_text("release = '2'")
told = pathlib.Path(pyarrow.__file__).parents[1] / "pyarrow-2.dist-info"
told.mkdir()
(told / "METADATA").write_text("Name: pyarrow\\nVersion: 2")
from qlora_kit.machine import renew_pyarrow
renew_pyarrow()
import pyarrow.part
assert pyarrow.__version__ == pyarrow.part.release == "2", pyarrow.__version__
"""


def test_a_pyarrow_that_pip_replaced_needs_no_restart(tmp_path):
    package = tmp_path / "pyarrow"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '1'")
    (package / "part.py").write_text("release = '1'")
    done = subprocess.run(
        [sys.executable, "-B", "-c", KERNEL],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
