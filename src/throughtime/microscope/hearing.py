"""Hears when a module is called and when a gradient comes back to it, at next to no cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from throughtime.microscope.hooks import Hook


def inside_backward() -> bool:
    """Whether a backward pass is under way in this thread; a call is a checkpoint's second run then."""
    return bool(torch._C._current_graph_task_id() != -1)


class Ear:
    """Tells of each call, of what it put out, and of each backward pass that reaches one of the module's weights.

    The weight is looked up in each call, as it may be another by then (loaded, or put in its place by
    torch.func.functional_call). Where it takes no gradient, the module's output is listened to.
    """

    def __init__(
        self,
        module: nn.Module,
        on_call: Callable[[], None],
        on_output: Callable[[nn.Module, Any, Any], None],
        on_gradient: Callable[[Tensor], None],
    ) -> None:
        weights = {name: weight for name, weight in module._parameters.items() if weight is not None}
        self._name = next((name for name, weight in weights.items() if weight.requires_grad), next(iter(weights), ""))
        self._on_call, self._on_output = on_call, on_output
        self._came = Hook(lambda gradient: on_gradient(gradient))
        self._weight: Tensor | None = None
        self._on_weight: RemovableHandle | None = None
        self._handles = [
            module.register_forward_pre_hook(Hook(self._called), prepend=True),
            module.register_forward_hook(Hook(self._put_out)),
        ]
        self._listen(module._parameters.get(self._name))

    def close(self) -> None:
        """Hear no more."""
        self._listen(None)
        for handle in self._handles:
            handle.remove()

    def _listen(self, weight: Tensor | None) -> None:
        if self._on_weight is not None:
            self._on_weight.remove()
        self._weight, self._on_weight = weight, None
        if weight is not None and weight.requires_grad:
            self._on_weight = weight.register_hook(self._came)  # type: ignore[no-untyped-call]

    def _called(self, module: nn.Module, args: Any) -> None:
        weight = module._parameters.get(self._name)
        if weight is not self._weight:
            self._listen(weight)
        elif weight is not None and weight.requires_grad and self._on_weight is None:
            self._listen(weight)  # it was frozen until now
        self._on_call()

    def _put_out(self, module: nn.Module, args: Any, output: Any) -> None:
        if not inside_backward():
            self._on_output(module, args, output)
        if self._weight is not None and self._weight.requires_grad:
            return
        if torch.is_grad_enabled() and not inside_backward():
            ahead = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
            if ahead:
                ahead[0].register_hook(self._came)  # type: ignore[no-untyped-call]
