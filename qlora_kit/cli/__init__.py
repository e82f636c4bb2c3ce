"""The command line: one file for each verb, put together in app.py."""

from .app import main as main
