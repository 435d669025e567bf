"""Text from a language model, one token after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..config.schema import SamplingConfig
from ..data.tokenizers.text import Tokenizer
from ..errors import ConfigError
from ..models.language_model import LanguageModel
from .base import evaluating


@torch.no_grad()
def generate(model: LanguageModel, tokenizer: Tokenizer, how: SamplingConfig) -> Iterator[str]:
    """Yield the text after `how.prompt` piece by piece, `how.tokens` tokens of it.

    Each token is drawn from softmax(logits / temperature), restricted to the `top_k` most probable and to
    the smallest set of probability `top_p` (A. Holtzman et al., arXiv 1904.09751); temperature 0 takes the
    most probable. Draws come from a generator of their own: the same seed gives the same text, and
    sampling during training changes nothing in it. Raises ConfigError for prompts the vocabulary lacks.
    """
    check_prompt(tokenizer, how.prompt)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(how.seed)
    decode, carry = tokenizer.decoder(), model.init_carry(1)
    prompt = tokenizer.encode(how.prompt)
    for token in prompt:  # words need to know what stands before them
        decode(token)
    tokens = [tokenizer.eos_id, *prompt]
    with evaluating(model):
        for _ in range(how.tokens):
            carry, logits = model(torch.tensor(tokens, device=device).unsqueeze(1), carry)  # (T, 1, V)
            last = logits[-1, 0].float().cpu()
            if tokenizer.unk_id is not None and not how.allow_unk:
                last[tokenizer.unk_id] = -torch.inf
            tokens = [draw(last, how, generator)]
            yield decode(tokens[0])


def check_prompt(tokenizer: Tokenizer, prompt: str, key: str = "prompt") -> None:
    """Raise ConfigError, naming `key`, if the vocabulary lacks something of `prompt`."""
    missing = tokenizer.missing(prompt)
    if missing:
        shown = ", ".join(repr(item) for item in missing[:20])
        raise ConfigError(f"{key}={prompt!r} has what the vocabulary lacks: {shown}; leave it out or replace it")


def draw(logits: Tensor, how: SamplingConfig, generator: torch.Generator) -> int:
    """One token from logits (V,)."""
    if how.temperature == 0:
        return int(logits.argmax())
    logits = (logits.double() - logits.max()) / how.temperature  # at most 0: nothing overflows
    if how.top_k is not None and how.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(how.top_k).values[-1], -torch.inf)
    probabilities = logits.softmax(0)
    if how.top_p is not None and how.top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        outside = ranked.cumsum(0) - ranked >= how.top_p  # the first token is always inside
        probabilities[order[outside]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))
