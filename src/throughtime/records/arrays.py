"""The arrays and numbers that records hold, and what may stand in their files.

`Annotated[Floats, "T B"]` is an array of two dimensions. Within a record one letter is one size, in the records inside
it as well, and a number or a tuple may carry a letter too: `T: Annotated[Count, "T"]`.
"""

from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

Count = Annotated[int, Meta(ge=0, le=2**53)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
Duration = Annotated[float, Meta(ge=0, le=1e300)]  # seconds
