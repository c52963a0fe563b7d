"""The net that hears several steps back at once."""

from typing import Any

from throughtime.cells.activations import Nonlinearity, activation
from throughtime.cells.cell import Cell, Gates, Read, Share, State, Weights
from throughtime.errors import CellError


class Taps(Cell, name="taps"):
    """h_t = φ(U x_t + W_1 h_{t-1} + … + W_n h_{t-n} + b), with n = `taps`.

    The state holds h_{t-n+1} … h_t: part "h_k" is the output k steps ago, "h" the output. The ports "tap_k" go
    through W_k; the ports "shift_k" hand a part on unchanged, one place further back.

    Source: Lin, Horne, Tiňo, Giles, "Learning long-term dependencies in NARX recurrent neural networks", 1996;
    lectures: a recursion with several taps, and how many there would have to be.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, taps: int = 3, nonlinearity: Nonlinearity = "tanh", **kwargs: Any
    ) -> None:
        if isinstance(taps, bool) or not isinstance(taps, int) or taps < 1:
            raise CellError(f"taps is a number of steps, 1 or more; got {taps!r}")
        self.phi = activation(nonlinearity)
        older = tuple(f"h_{k}" for k in range(1, taps))
        held = ("h", *older)  # newest first: held[k] is k steps old
        self.parts = held[::-1]
        self.recurrent = tuple(f"tap_{k}" for k in range(1, taps + 1))
        self.inputs = ("hidden",)
        self.unbiased = self.recurrent[1:]
        self.shifts = {part: f"shift_{k}" for k, part in enumerate(older, start=1)}
        self.reads = dict(zip(self.recurrent, held, strict=True)) | dict(
            zip(self.shifts.values(), held[:-1], strict=True)
        )
        super().__init__(input_size, hidden_size, options={"taps": taps, "nonlinearity": nonlinearity}, **kwargs)

    def step(self, u: Share, read: Read, W: Weights) -> tuple[State, Gates]:
        """The equation above; there is no gate to watch."""
        a = u.hidden
        for tap in W:
            a = a + getattr(W, tap)(read[tap])
        moved = {part: read[self.shifts[part]] for part in self.parts[:-1]}
        return State(**moved, h=self.phi.function(a)), Gates()
