"""Attributes of modules that are others for a while, and what must not be patched at all."""

from contextlib import ExitStack
from typing import Any

import torch


def patch(stack: ExitStack, module: torch.nn.Module, **attributes: Any) -> None:
    """Set a module's attributes until the stack closes; those that it had itself come back.

    Args:
        stack: undoes, in reverse order, also after an error.
        module: its class's attributes are covered, not changed.
        attributes: no parameters or submodules.
    """
    own = vars(module)
    names = list(attributes)  # undoing keeps no hold on what was set: a weight may be replaced
    before = {name: own[name] for name in names if name in own}

    def undo() -> None:
        for name in names:
            own.pop(name, None)
        own.update(before)

    stack.callback(undo)
    own.update(attributes)


def is_untouched(module: torch.nn.Module) -> bool:
    """Whether a module computes by its class's forward (or this room's), and no hook looks on."""
    forward = vars(module).get("forward")
    own = forward is None or getattr(forward, "__module__", "").startswith(__package__)
    return own and not (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    )
