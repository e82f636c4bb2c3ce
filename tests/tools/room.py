"""`make room`: students, one after another, from the packed folder to lesson 00, without a network.

Each has a home of its own with nothing in it, a plain Python, and no network: the kernel gives
the process a network of its own that leads nowhere (`unshare`, Linux). There install.py runs,
and then lesson 00 in the smoke profile. At the end the teacher's report shows them side by side.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from qlora_kit.course import pack_folder, read_room, save_room, targets_of
from qlora_kit.course.results import FILE

ROOT = Path(__file__).parents[2]
# Jupyter talks to its kernel over the loopback, which is switched on; nothing else is there.
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "-"]
NO_WAY_OUT = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"


def student(home: Path, folder: Path) -> list[str]:
    """One student's evening; what went wrong, in order."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    environ = {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8"}
    course = home / "qlora-course"
    python = str(Path(sys.executable).resolve())  # not the environment's: a plain one
    kit = str(course / ".venv/bin/qlora-kit")
    steps = {
        "install": [python, str(folder / "install.py")],
        "lesson 00": [kit, "course", "run", "00", "--profile", "smoke", "--out", str(home / "run")],
    }
    wayout = subprocess.run([*ALONE, python, "-c", NO_WAY_OUT], capture_output=True, text=True)
    if "unreachable" not in wayout.stderr:
        return [f"the network is not cut: {wayout.stderr.strip()[-200:]}"]
    for name, command in steps.items():
        began = time.perf_counter()
        done = subprocess.run([*ALONE, *command], env=environ, capture_output=True, text=True,
                              cwd=course if course.exists() else home)  # fmt: skip
        print(f"  {name}: {time.perf_counter() - began:.0f} s", flush=True)
        if done.returncode:
            return [f"{name}: {(done.stdout + done.stderr).strip()[-600:]}"]
    shutil.rmtree(course / ".venv")  # the next student needs the room on the disk
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--pack", type=Path, help="a packed folder; by itself one is made")
    parser.add_argument("--output", type=Path, default=Path("runs/room"))
    arguments = parser.parse_args()
    out = arguments.output.resolve()
    shutil.rmtree(out, ignore_errors=True)
    folder = (arguments.pack or out / "pack").resolve()
    if not folder.exists():
        print(f"Packing {folder} ...", flush=True)
        pack_folder(folder, ROOT, ROOT / "notebooks", targets_of([], []))
    problems = []
    for number in range(1, arguments.students + 1):
        name = f"student-{number}"
        print(name, flush=True)
        found = student(out / "homes" / name, folder)
        problems += [f"{name}: {line}" for line in found]
        if not found:
            (out / "results" / name).mkdir(parents=True)
            shutil.copy(out / "homes" / name / "run" / FILE, out / "results" / name)
    print("\n".join(problems))
    print(f"{arguments.students - len(problems)} of {arguments.students} finished lesson 00.")
    if len(problems) < arguments.students:
        print(f"Side by side: {save_room(read_room([out / 'results'])[0], out / 'room.html')}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
