"""A process without a way out: the Linux kernel refuses it every socket but local ones.

Sockets that it holds already go on working, so a server that listens keeps answering whoever
connects to it, while nothing inside it, Python or C++, can call anybody. No root is needed.
"""

import contextlib
import ctypes
import errno
import ipaddress
import os
import platform
import socket
import struct
import sys
from pathlib import Path

from .. import KitError

# Per architecture: its audit number, and the numbers of socket(2) and seccomp(2).
_NUMBERS = {"x86_64": (0xC000003E, 41, 317), "aarch64": (0xC00000B7, 198, 277)}
_IO_URING_SETUP = 425  # the same everywhere; its ring could open sockets too
_X32 = 0x40000000  # x86_64's second set of system calls
_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF instructions
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def block_network() -> None:
    """From here on the kernel gives this process, and its children, no socket but AF_UNIX.

    It cannot be undone. That it holds is tried out before this returns.

    Raises:
        KitError: not Linux on x86_64 or arm64, or a kernel that does not allow it.

    Source: seccomp(2), SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC.
    """
    if not sys.platform.startswith("linux") or platform.machine() not in _NUMBERS:
        raise KitError("Only Linux on x86_64 or arm64 can be kept offline; leave out --offline.")
    architecture, open_socket, seccomp = _NUMBERS[platform.machine()]
    rules = _rules(architecture, open_socket)
    program = _Program(len(rules) // 8, rules)
    libc = ctypes.CDLL(None, use_errno=True)
    refused = libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(
        seccomp, _SET_FILTER, _ALL_THREADS, ctypes.byref(program)
    )
    if refused:
        reason = os.strerror(ctypes.get_errno())
        raise KitError(f"This kernel does not allow --offline ({reason}); leave it out.")
    with contextlib.suppress(PermissionError):
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        raise KitError("The kernel still gives out internet sockets; --offline has no effect here.")


def _rules(architecture: int, open_socket: int) -> bytes:
    """The filter: (instruction, value, skip when true, skip when false), read from the top."""
    lines = (
        (_LOAD, 4, 0, 0),  # the architecture
        (_EQUAL, architecture, 0, 6),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, _X32, 4, 0),
        (_EQUAL, _IO_URING_SETUP, 3, 0),
        (_EQUAL, open_socket, 0, 3),
        (_LOAD, 16, 0, 0),  # its first argument: the family
        (_EQUAL, socket.AF_UNIX, 1, 0),
        (_RETURN, _REFUSE, 0, 0),
        (_RETURN, _ALLOW, 0, 0),
    )
    return b"".join(struct.pack("HBBI", code, yes, no, value) for code, value, yes, no in lines)


def has_seccomp_filter(pid: int) -> bool:
    """Whether a process runs under a filter of system calls, as the kernel says.

    Args:
        pid: a process on this machine.
    """
    with contextlib.suppress(OSError):
        return "Seccomp:\t2\n" in Path(f"/proc/{pid}/status").read_text()
    return False


def remote_addresses(pid: int) -> tuple[str, ...]:
    """The addresses outside this machine that a process and its children are connected to.

    Args:
        pid: one of your own processes.
    """
    import psutil

    process = psutil.Process(pid)
    addresses = set()
    for each in (process, *process.children(recursive=True)):
        # psutil 6 gave it another name; Colab ships 5.
        connections = getattr(each, "net_connections", None) or each.connections
        addresses |= {connection.raddr.ip for connection in connections("inet") if connection.raddr}
    return tuple(sorted(a for a in addresses if not ipaddress.ip_address(a).is_loopback))
