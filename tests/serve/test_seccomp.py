"""The seal is tried in a process of its own: it cannot be undone."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from qlora_kit.serve import is_sealed, peers

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

CHILD = """
import os, socket, subprocess, sys, threading
from qlora_kit.serve import is_sealed, seal

listener = socket.create_server(("127.0.0.1", 0))
held, go = [], threading.Event()

def reach():
    go.wait()
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                held.append(socket.socket(family, kind))
            except PermissionError:
                pass

older = threading.Thread(target=reach)
older.start()
assert not is_sealed(os.getpid())
seal()
go.set()
older.join()
assert not held and is_sealed(os.getpid())
socket.socket(socket.AF_UNIX).close()
child = "import socket; socket.socket()"
assert subprocess.run([sys.executable, "-c", child], capture_output=True).returncode == 1
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.sendall(b"still here")
"""


def test_a_sealed_process_answers_but_cannot_call_anybody():
    import socket

    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as it:
        port = it.stdout.readline()
        assert port, "the child failed"
        with socket.create_connection(("127.0.0.1", int(port))) as connection:
            assert connection.recv(100) == b"still here"
    assert it.returncode == 0


def test_connections_on_this_machine_are_no_peers():
    assert peers(os.getpid()) == ()
    assert not is_sealed(psutil.pids()[-1] + 10_000)


def test_peers_are_found_by_any_psutil(monkeypatch):
    """psutil 5, which Colab ships, has no `net_connections` of a process."""
    far = SimpleNamespace(raddr=SimpleNamespace(ip="192.0.2.1"))
    process = SimpleNamespace(children=lambda recursive: [], connections=lambda kind: [far])
    monkeypatch.setattr("psutil.Process", lambda pid: process)
    assert peers(1) == ("192.0.2.1",)
