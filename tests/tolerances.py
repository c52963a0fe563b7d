"""How close numbers must come, by dtype, in one place. Relative to the largest magnitude unless said otherwise.

Nothing here is loosened for one test; a test that cannot meet its row has found something.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

IDENTITY = {torch.float64: 1e-12, torch.float32: 1e-5}  # two exact ways to the same number: engines, Jacobians, sums
MEASURE = {torch.float64: 1e-10, torch.float32: 1e-4}  # measures against an independent oracle


def close(a: Tensor, b: Tensor, table: dict[torch.dtype, float] = IDENTITY) -> None:
    """Assert that a and b agree within the table's row for their dtype, relative to the largest magnitude of b."""
    a, b = a.detach(), b.detach()
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    assert torch.isfinite(a).all()
    assert torch.isfinite(b).all()
    scale = max(float(b.abs().max()), torch.finfo(b.dtype).tiny) if b.numel() else 1.0
    worst = float((a - b).abs().max()) / scale if b.numel() else 0.0
    assert worst <= table[b.dtype], f"differs by {worst:.3e} relative, allowed {table[b.dtype]:.0e}"


def near(a: ArrayLike, b: ArrayLike, table: dict[torch.dtype, float] = IDENTITY) -> None:
    """Assert that float64 numbers agree one by one within the table's row, relative to 1 + |b|; logarithms, say.

    −inf and NaN agree with themselves alone.
    """
    a, b = np.asarray(a), np.asarray(b)
    allowed = table[torch.float64]
    assert np.allclose(a, b, rtol=allowed, atol=allowed, equal_nan=True), f"{a} is not near {b}, allowed {allowed:.0e}"
