"""What notebooks, teachers and maintainers need: claims, exercises, runs of the course, a room."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
