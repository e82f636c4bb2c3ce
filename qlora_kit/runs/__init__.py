"""A run: its settings, its folder, its checkpoints, its manifest, and how it is opened again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
