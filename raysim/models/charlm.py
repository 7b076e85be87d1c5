"""Recurrent networks that predict the next character at every position."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from raysim.core.interfaces import Dataset, Model
from raysim.core.plugin import Count
from raysim.models.shapes import vocabulary


class _Recurrent(nn.Module):
    """Embedding, recurrent layers, linear map: tokens [B, length] -> [B, length, vocabulary]."""

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], tokens: int, embedding: int, hidden: int, layers: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding)
        self.recurrent = kind(embedding, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token, from a zero state."""
        return self.output(self.recurrent(self.embedding(tokens))[0])


@dataclass(frozen=True)
class CharLSTM(Model):
    """A character model of LSTM layers: embedding, LSTM, linear map to the vocabulary at every position.

    Paper: Hochreiter, Schmidhuber, Long Short-Term Memory, 1997, https://doi.org/10.1162/neco.1997.9.8.1735;
    default sizes from McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data, 2016, https://arxiv.org/abs/1602.05629

    Args:
        embedding: numbers per character.
        hidden: width of every LSTM layer.
        layers: number of LSTM layers.
    """

    embedding: Count = 8
    hidden: Count = 256
    layers: Count = 2

    def build(self, data: Dataset) -> nn.Module:
        """Tokens [B, length] to scores [B, length, vocabulary]."""
        return _Recurrent(nn.LSTM, vocabulary(data, "CharLSTM"), self.embedding, self.hidden, self.layers)


@dataclass(frozen=True)
class CharGRU(Model):
    """A character model of GRU layers: embedding, GRU, linear map to the vocabulary at every position.

    Paper: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
    Translation, 2014, https://arxiv.org/abs/1406.1078

    Args:
        embedding: numbers per character.
        hidden: width of every GRU layer.
        layers: number of GRU layers.
    """

    embedding: Count = 8
    hidden: Count = 128
    layers: Count = 1

    def build(self, data: Dataset) -> nn.Module:
        """Tokens [B, length] to scores [B, length, vocabulary]."""
        return _Recurrent(nn.GRU, vocabulary(data, "CharGRU"), self.embedding, self.hidden, self.layers)
