"""Language models: of the next token, in one direction or in both."""

from __future__ import annotations

from torch import nn

from ..cells import Carry
from ..layers import Layer
from .stack import parameters_in_words
from .text_model import TextModel


class LanguageModel(TextModel):
    """Recurrent language model: p(w_{t+1} | w_1 .. w_t) = softmax(W_o P y_t + b_o),  y = stack(dropout(E[w])).

    Options are those of TextModel. Raises ValueError if the stack is not causal.
    """

    def check_stack(self, stack: Layer) -> None:
        if not stack.causal:
            raise ValueError(
                "the stack is not causal: a layer that runs backward sees the token to be predicted; "
                "a language model needs layers that run forward only"
            )


class BidirectionalLanguageModel(nn.Module):
    """Two language models of the same words: `fwd` reads a text from its beginning, `bwd` from its end.

    p(w_{t+1} | w_1 .. w_t) and p(w_{t-1} | w_n .. w_t). Embedding and output layer are those of `fwd` for both, each
    has a stack and projection of its own. Raises ValueError if sizes differ. M. E. Peters et al., arXiv 1802.05365.
    """

    def __init__(self, forward: LanguageModel, backward: LanguageModel) -> None:
        super().__init__()
        if forward.stack is backward.stack:
            raise ValueError("backward must have a stack of its own, not that of forward")
        for part in ("embedding", "decoder"):
            fwd, bwd = ([p.shape for p in getattr(one, part).parameters()] for one in (forward, backward))
            if fwd != bwd:
                raise ValueError(f"the {part} is to be one for both, but sizes differ: {fwd} and {bwd}")
        self.fwd, self.bwd = forward, backward
        backward.embedding, backward.decoder = forward.embedding, forward.decoder
        self.vocab_size = forward.vocab_size

    def extra_repr(self) -> str:
        """The number of parameters, for print(model)."""
        return f"parameters: {parameters_in_words(self)}"

    def init_carry(self, batch_size: int) -> Carry:
        """The states of both before their first token: zeros."""
        return (self.fwd.init_carry(batch_size), self.bwd.init_carry(batch_size))
