"""A GGUF file served to OpenAI's clients on this machine, and asked."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
