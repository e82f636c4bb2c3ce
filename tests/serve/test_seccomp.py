"""The filter is tried in a process of its own: it cannot be undone."""

import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from qlora_kit.serve import has_seccomp_filter, remote_addresses

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

CHILD = """
import os, socket, subprocess, sys, threading
from qlora_kit.serve import block_network, has_seccomp_filter

listener = socket.create_server(("127.0.0.1", 0))
sockets, go = [], threading.Event()

def reach():
    go.wait()
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                sockets.append(socket.socket(family, kind))
            except PermissionError:
                pass

older = threading.Thread(target=reach)
older.start()
assert not has_seccomp_filter(os.getpid())
block_network()
go.set()
older.join()
assert not sockets and has_seccomp_filter(os.getpid())
socket.socket(socket.AF_UNIX).close()
child = "import socket; socket.socket()"
assert subprocess.run([sys.executable, "-c", child], capture_output=True).returncode == 1
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.sendall(b"still here")
"""


def test_a_filtered_process_answers_but_cannot_call_anybody():
    import socket

    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) as it:
        port = it.stdout.readline()
        assert port, "the child failed"
        with socket.create_connection(("127.0.0.1", int(port))) as connection:
            assert connection.recv(100) == b"still here"
    assert it.returncode == 0


def test_connections_on_this_machine_are_not_remote():
    assert remote_addresses(os.getpid()) == ()
    assert not has_seccomp_filter(psutil.pids()[-1] + 10_000)


def test_remote_addresses_are_found_by_any_psutil(monkeypatch):
    """psutil 5, which Colab ships, has no `net_connections` of a process."""
    far = SimpleNamespace(raddr=SimpleNamespace(ip="192.0.2.1"))
    process = SimpleNamespace(children=lambda recursive: [], connections=lambda kind: [far])
    monkeypatch.setattr("psutil.Process", lambda pid: process)
    assert remote_addresses(1) == ("192.0.2.1",)
