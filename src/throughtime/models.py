"""The model around a recurrence: what goes in is encoded, what comes out is read.

Dimensions: T steps, B sequences, E encoded values a step, H units, L layers, D directions, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from throughtime.cells.cell import State
from throughtime.data.dataset import Batch
from throughtime.errors import CellError
from throughtime.modules import Recurrent
from throughtime.records import DataCard, ModelCard

QUIET = 0.1  # how large a token's vector starts: one seen too rarely to learn from says little
READOUTS = ("last", "mean", "every")


class Tally(NamedTuple):
    """Sums over the answers that count; means are theirs to make, also over several batches or processes."""

    loss: Tensor  # () summed loss
    right: Tensor  # () how many classes were named rightly; 0 for values
    answers: Tensor  # () how many there are


class Net(nn.Module):
    """Encoder, recurrent layers, readout and head.

    Tokens (T, B) are embedded, values (T, B, I) go in as they are. The readout gives the head each sequence's last
    output ("last"; of the backward direction the one at its first step), the mean of its outputs ("mean"), or every
    output ("every").
    """

    def __init__(
        self,
        data: DataCard,
        recurrent: Recurrent,
        *,
        embedding: int | None = None,
        dropout: float = 0.0,
        readout: Literal["last", "mean", "every"] = "last",
    ) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise CellError(f"the readout is one of {', '.join(READOUTS)}, not {readout!r}")
        if (embedding is not None) != data.tokens:
            raise CellError("tokens need an embedding, and values (numbers a step) cannot have one")
        self.tokens = data.tokens
        self.classes = data.metric != "mse"
        self.metric = data.metric
        self.readout = readout
        self.embedding = None if embedding is None else nn.Embedding(data.inputs, embedding)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=QUIET)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size * recurrent.directions, data.outputs)

    @classmethod
    def build(
        cls,
        data: DataCard,
        cell: str = "lstm",
        *,
        hidden: int = 64,
        layers: int = 1,
        bidirectional: bool = False,
        embedding: int | None = None,
        dropout: float = 0.0,
        readout: Literal["last", "mean", "every"] | None = None,
        engine: str = "auto",
        recompute: bool = False,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        forget_bias: float | None = None,
        input_init: Literal["lecun"] | None = None,
        recurrent_init: Literal["orthogonal", "identity"] | None = None,
        chrono: float | None = None,
    ) -> Net:
        """A model for data of this kind; every parameter is drawn from `seed` alone, and no generator is touched.

        `embedding` None: 64 units for tokens, or as many as there are tokens if those are fewer. `readout` None:
        "every" for data whose next step is asked for, else "last". `dropout` acts on embedded tokens, between
        layers and before the head; `options` are the cell's. All else as in `Recurrent`.

        Raises CellError for sizes or options that do not fit.
        """
        if data.tokens and embedding is None:
            embedding = min(64, data.inputs)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            recurrent = Recurrent(
                cell,
                data.inputs if embedding is None else embedding,
                hidden,
                layers,
                dropout=dropout if layers > 1 else 0.0,
                bidirectional=bidirectional,
                engine=engine,
                recompute=recompute,
                forget_bias=forget_bias,
                input_init=input_init,
                recurrent_init=recurrent_init,
                chrono=chrono,
                **(options or {}),
            )
            usual: Literal["last", "every"] = "every" if data.kind == "next" else "last"
            return cls(data, recurrent, embedding=embedding, dropout=dropout, readout=readout or usual)

    # -- from the batch to the prediction

    def encode(self, x: Tensor) -> Tensor:
        """What the recurrence reads: (T, B, E) from tokens (T, B) or values (T, B, I)."""
        if self.embedding is None:
            return x.to(self.head.weight.dtype)
        encoded: Tensor = self.dropout(self.embedding(x))
        return encoded

    def decode(self, output: Tensor, lengths: Tensor) -> Tensor:
        """The prediction from output (T, B, H·D), zero past each length: (B, O), or (T, B, O) for "every"."""
        prediction: Tensor = self.head(self.dropout(self._read(output, lengths)))
        return prediction

    def forward(
        self, batch: Batch, state: State | None = None, *, damping: float | None = None
    ) -> tuple[Tensor, State]:
        """The prediction, (B, O) or (T, B, O), and the final state, each part (L·D, B, H).

        `damping`: while backpropagating, the largest norm of each sequence's gradient on the state, at every step.
        """
        output, final = self.recurrent.run(self.encode(batch.x), state, batch.lengths, damping=damping)
        return self.decode(output, batch.lengths), final

    def _read(self, output: Tensor, lengths: Tensor) -> Tensor:
        if self.readout == "every":
            return output
        if self.readout == "mean":
            return output.sum(0) / lengths.clamp(min=1).unsqueeze(-1).to(output.dtype)
        last = output[(lengths - 1).clamp(min=0), torch.arange(output.shape[1], device=output.device)]
        if not self.recurrent.bidirectional:
            return last
        H = self.recurrent.hidden_size
        return torch.cat((last[:, :H], output[0, :, H:]), dim=-1)

    # -- from the prediction to numbers

    def tally(self, prediction: Tensor, batch: Batch) -> Tally:
        """Summed loss, right answers and their count: cross-entropy (nats) for classes, squared error for values.

        The squared error of an answer is the mean over its O values.
        """
        y = batch.y
        if self.classes:
            flat = prediction.flatten(0, -2)
            losses = F.cross_entropy(flat, y.flatten(), reduction="none").view(y.shape)
            right = (flat.detach().argmax(-1) == y.flatten()).view(y.shape)
        else:
            losses = (prediction - y.to(prediction.dtype)).square().mean(-1)
            right = torch.zeros_like(losses, dtype=torch.bool)
        counted = counts(batch)
        if counted is None:
            return Tally(losses.sum(), right.sum(), torch.tensor(losses.numel(), device=losses.device))
        return Tally((losses * counted).sum(), (right & counted).sum(), counted.sum())

    def loss(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The mean loss over the answers that count; 0 if none does."""
        tally = self.tally(prediction, batch)
        return tally.loss / tally.answers.clamp(min=1)

    def score(self, prediction: Tensor, batch: Batch) -> float:
        """The task's metric over the answers that count: a share for accuracy, else the mean loss."""
        return self.metric_of(self.tally(prediction, batch))

    def metric_of(self, tally: Tally) -> float:
        """The task's metric from sums."""
        total = tally.right if self.metric == "accuracy" else tally.loss
        return float(total.detach()) / max(1, int(tally.answers))

    def card(self) -> ModelCard:
        """What this model is."""
        return ModelCard(
            cell=self.recurrent.cell.name,
            options=dict(self.recurrent.cell.options),
            layers=self.recurrent.num_layers,
            hidden=self.recurrent.hidden_size,
            bidirectional=self.recurrent.bidirectional,
            embedding=None if self.embedding is None else self.embedding.embedding_dim,
            dropout=self.dropout.p,
            readout=self.readout,
            engine=self.recurrent.served or self.recurrent.engine,
            start=self.recurrent.start,
            parameters=sum(parameter.numel() for parameter in self.parameters()),
        )


def counts(batch: Batch) -> Tensor | None:
    """Which answers of a batch count, (T, B) bool; None if its answers are one a sequence, which all count."""
    if not batch.each_step:
        return None
    if batch.counted is not None:
        return batch.counted
    steps = torch.arange(batch.x.shape[0], device=batch.lengths.device)
    return steps.unsqueeze(-1) < batch.lengths
