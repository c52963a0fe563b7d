"""Other words for gates and parts of the state, as some texts have them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class Words(dict[str, Tensor]):
    """Tensors by name, that answer to other words for the same tensor too.

    The other words are not keys: iterating and `in` know the names alone. An ASCII apostrophe stands for ′.
    """

    def __init__(self, tensors: Mapping[str, Tensor], also: Mapping[str, str]) -> None:
        super().__init__(tensors)
        self._also = also

    def __missing__(self, word: str) -> Tensor:
        name = self._also.get(word.replace("'", "′"))
        if name is None or name not in self:
            words = (f"{other} (= {known})" for other, known in self._also.items() if known in self)
            raise KeyError(f"no {word!r} here; there is {', '.join([*self, *words])}")
        return self[name]
