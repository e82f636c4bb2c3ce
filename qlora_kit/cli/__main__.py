"""`python -m qlora_kit.cli`."""

from .app import main

main()
