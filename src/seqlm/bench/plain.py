"""Language models written by hand around nn.LSTM: the baseline of whole training steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.stack import Dropouts

State = list[tuple[Tensor, Tensor]]


class Plain(nn.Module):
    """nn.Embedding, nn.LSTM, nn.Linear, as in PyTorch's word_language_model.

    Its layers have one width, and standard dropout of one probability around them.
    """

    def __init__(self, vocabulary: int, embedding: int, sizes: Sequence[int], tied: bool, dropout: Dropouts) -> None:
        super().__init__()
        p = dropout.get("output", 0.0)
        assert len(set(sizes)) == 1, "one nn.LSTM has layers of one width"
        assert dropout.get("input", 0.0) == dropout.get("hidden", 0.0) == p, "one nn.Dropout has one probability"
        self.drop = nn.Dropout(p)
        self.encoder = nn.Embedding(vocabulary, embedding)
        self.rnn = nn.LSTM(embedding, sizes[0], len(sizes), dropout=p if len(sizes) > 1 else 0.0)
        self.decoder = nn.Linear(sizes[-1], vocabulary)
        if tied:
            self.decoder.weight = self.encoder.weight

    def start(self, batch: int) -> State:
        """Zeros, on the device of the model."""
        zeros = self.encoder.weight.new_zeros(self.rnn.num_layers, batch, self.rnn.hidden_size)
        return [(zeros, zeros)]

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State, Tensor, Tensor]:
        """Logits, the state, and the last outputs with dropout and without."""
        raw, after = self.rnn(self.drop(self.encoder(tokens)), state[0])
        dropped = self.drop(raw)
        return self.decoder(dropped), [after], dropped, raw


class PlainAwd(nn.Module):
    """AWD-LSTM: an nn.LSTM for each layer, its recurrent weights dropped, locked masks between (arXiv 1708.02182)."""

    def __init__(self, vocabulary: int, embedding: int, sizes: Sequence[int], tied: bool, dropout: Dropouts) -> None:
        super().__init__()
        self.sizes, self.dropout = sizes, dropout
        self.encoder = nn.Embedding(vocabulary, embedding)
        self.rnns = nn.ModuleList(nn.LSTM(*widths) for widths in pairwise([embedding, *sizes]))
        self.decoder = nn.Linear(sizes[-1], vocabulary)
        if tied:
            self.decoder.weight = self.encoder.weight

    def start(self, batch: int) -> State:
        """Zeros, on the device of the model."""
        zeros = [self.encoder.weight.new_zeros(1, batch, size) for size in self.sizes]
        return [(zero, zero) for zero in zeros]

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State, Tensor, Tensor]:
        """Logits, the state, and the last outputs with dropout and without."""
        ps, words = self.dropout, self.encoder.weight
        kept = F.dropout(words.new_ones(len(words), 1), ps.get("embedding", 0.0), self.training)
        xs = self._locked(F.embedding(tokens, kept * words), ps.get("input", 0.0))
        after = []
        for index, rnn in enumerate(self.rnns):
            if index:
                xs = self._locked(xs, ps.get("hidden", 0.0))
            w_ih, w_hh, b_ih, b_hh = rnn.parameters()
            weights = [w_ih, F.dropout(w_hh, ps.get("weight", 0.0), self.training), b_ih, b_hh]
            xs, h, c = torch.lstm(xs, state[index], weights, True, 1, 0.0, self.training, False, False)
            after.append((h, c))
        dropped = self._locked(xs, ps.get("output", 0.0))
        return self.decoder(dropped), after, dropped, xs

    def _locked(self, xs: Tensor, p: float) -> Tensor:
        """One mask for all steps."""
        return F.dropout(torch.ones_like(xs[:1]), p, self.training) * xs
