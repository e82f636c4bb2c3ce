"""`python -m qlora_kit.serve`: serve by the settings on standard input, for `running`."""

import sys

from .. import KitError
from ..machine import apply_thread_policy
from .server import Settings, run

apply_thread_policy()  # before anything loads torch
try:
    run(Settings.from_json(sys.stdin.read()))
except KitError as problem:
    sys.exit(f"qlora-kit: {problem}")
