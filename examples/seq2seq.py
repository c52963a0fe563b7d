"""Reads the first half of a passage with an LSTM and writes the second half with another, letter by letter.

throughtime measure examples/seq2seq.py:make --data play.txt --max-length 64
"""

from itertools import islice

import torch
from torch import nn


class Continue(nn.Module):
    """Encoder and decoder with attention (Luong et al., 2015); the decoder is told the letter it should have said."""

    def __init__(self, letters, embedding=32, hidden=64):
        super().__init__()
        self.embedding = nn.Embedding(letters, embedding)
        self.encoder = nn.LSTM(embedding, hidden, batch_first=True)
        self.decoder = nn.LSTMCell(embedding + hidden, hidden)
        self.head = nn.Linear(2 * hidden, letters)

    def forward(self, x):
        letters = self.embedding(x)
        half = x.shape[1] // 2
        memory, (h, c) = self.encoder(letters[:, :half])
        h, c = h[0], c[0]
        context = torch.zeros_like(h)
        scores = []
        for t in range(half, x.shape[1]):
            h, c = self.decoder(torch.cat([letters[:, t], context], dim=1), (h, c))
            weights = (memory @ h[:, :, None]).softmax(dim=1)
            context = (weights * memory).sum(dim=1)
            scores.append(self.head(torch.cat([h, context], dim=1)))
        return torch.stack(scores, dim=1)


def loss(scores, y):
    """Cross-entropy of the second half alone: y holds the letter after each one of the passage."""
    return nn.functional.cross_entropy(scores.transpose(1, 2), y[:, -scores.shape[1] :])


def make(data, batches):
    """A model for this text, after eighty steps of training."""
    model = Continue(data.inputs)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for x, _, y in islice(batches, 80):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, loss
