"""Hooks that look on, and are in nobody's way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C._dynamo import eval_frame


class Hook:
    """A function to be hung onto a module, a tensor or an operation.

    It does not follow its module into a copy or a file: there it does nothing. In a graph that the compiler makes of a
    module it leaves no trace, so that a model that must be one graph still is; where a compiled model calls a module
    in the ordinary way, it runs.
    """

    def __init__(self, look: Callable[..., Any] | None = None) -> None:
        self.look = look

    def __call__(self, *args: Any) -> Any:
        """Look, if there is somebody to, and if this is no graph in the making."""
        return None if self.look is None or torch.compiler.is_compiling() else self.look(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[Any, ...]:
        return Hook, ()


# A hook that a compiled model calls in the ordinary way would be compiled by itself, and find then that a graph is in
# the making. It, and all that it calls, is to be left alone; `torch.compiler.disable` would forbid it in a graph, too.
eval_frame.set_code_exec_strategy(
    Hook.__call__.__code__,
    eval_frame._FrameExecStrategy(eval_frame._FrameAction.SKIP, eval_frame._FrameAction.SKIP),
)
