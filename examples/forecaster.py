"""Looks at a stretch of several measured quantities with two layers of LSTM and says what comes next.

throughtime measure examples/forecaster.py:make --data weather.csv
"""

from itertools import islice

import torch
from torch import nn


class Forecaster(nn.Module):
    """Answers once, from the last state: the next row."""

    def __init__(self, inputs, outputs, hidden=64):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x):
        states, _ = self.lstm(x)
        return self.head(states[:, -1])


def make(data, batches):
    """A model for this series, after a hundred steps of training, and the loss it was trained with."""
    model = Forecaster(data.inputs, data.outputs)
    loss = nn.SmoothL1Loss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for x, _, y in islice(batches, 100):
        optimizer.zero_grad()
        loss(model(x), y[:, -1]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model, loss
