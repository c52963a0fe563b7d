"""What Triton's interpreter has not: the device library's functions, here torch's on the CPU.

Only for tests of the kernels on machines without a GPU (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        import triton.language as tl
        from triton.runtime.interpreter import TensorHandle

        made = function(*(torch.from_numpy(argument.handle.data) for argument in arguments)).numpy()
        return tl.tensor(TensorHandle(made, arguments[0].handle.dtype), arguments[0].type)

    return call


atan = _elementwise(torch.atan)
cos = _elementwise(torch.cos)
erf = _elementwise(torch.erf)
exp = _elementwise(torch.exp)
expm1 = _elementwise(torch.expm1)
log = _elementwise(torch.log)
log1p = _elementwise(torch.log1p)
pow = _elementwise(torch.pow)  # noqa: A001
rsqrt = _elementwise(torch.rsqrt)
sin = _elementwise(torch.sin)
sqrt = _elementwise(torch.sqrt)
tanh = _elementwise(torch.tanh)
