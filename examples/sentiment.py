"""Reads a review word by word with a GRU and says whether it liked the film.

throughtime measure examples/sentiment.py:make --data reviews.csv
"""

from itertools import islice

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Sentiment(nn.Module):
    """Embedding, GRU, attention over its outputs, and one score for each label."""

    def __init__(self, words, labels, embedding=32, hidden=64):
        super().__init__()
        self.embedding = nn.Embedding(words, embedding)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)
        self.attention = nn.Linear(hidden, 1)
        self.head = nn.Linear(hidden, labels)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(self.embedding(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        padding = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        weights = self.attention(states).squeeze(-1).masked_fill(padding, -torch.inf).softmax(-1)
        return self.head((weights[:, :, None] * states).sum(1))


def make(data, batches):
    """A model for these reviews, after sixty steps of training."""
    model = Sentiment(data.inputs, data.outputs)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for x, lengths, y in islice(batches, 60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x, lengths), y).backward()
        optimizer.step()
    return model


def untrained(data):
    """The same model before it has learned anything."""
    return Sentiment(data.inputs, data.outputs)
