"""`python -m qlora_kit.serve`: serve by the settings on standard input, for `running`."""

import sys

from pydantic import TypeAdapter

from .. import KitError
from ..machine import apply_thread_policy
from .config import ServerConfig
from .server import run

apply_thread_policy()  # before anything loads torch
try:
    run(TypeAdapter(ServerConfig).validate_json(sys.stdin.read()))
except KitError as problem:
    sys.exit(f"qlora-kit: {problem}")
