"""Text from a language model, one token after the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..config.schema import SamplingConfig
from ..config.verb_schema import SampleConfig
from ..data.tokenizers.text import Tokenizer
from ..errors import ConfigError, NonFiniteError
from ..models.language_model import LanguageModel
from .base import Task, evaluating


def check_options(task: Task, options: SampleConfig) -> None:
    """Raise ConfigError if the task writes no texts, or has no use for an option."""
    if not task.writes:
        raise ConfigError(f"{type(task).__name__} does not write texts; use seqlm predict")
    if options.condition is not None and "condition" not in task.sample_options:
        raise ConfigError(f"condition={options.condition} is for runs of task=conditional; leave it out")


def stream(task: Task, model: Any, tokenizer: Any, options: SampleConfig) -> Iterator[str]:
    """The text of `seqlm sample`, piece by piece: the prompt, and what the model writes after it.

    Raises ConfigError here, not at the first piece, for options that the task or the vocabulary lacks.
    """
    check_options(task, options)
    pieces = task.write(model, tokenizer, options)
    return chain([options.prompt + next(pieces, "")], pieces)


@torch.inference_mode()
def generate(model: LanguageModel, tokenizer: Tokenizer, options: SamplingConfig) -> Iterator[str]:
    """Yield the text after `options.prompt` piece by piece, `options.tokens` tokens of it.

    Each token is drawn from softmax(logits / temperature), restricted to the `top_k` most probable and to
    the smallest set of probability `top_p` (A. Holtzman et al., arXiv 1904.09751); temperature 0 takes the
    most probable. Draws come from a generator of their own: the same seed gives the same text, and
    sampling during training changes nothing in it. Raises ConfigError for prompts the vocabulary lacks.
    """
    check_prompt(tokenizer, options.prompt)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(options.seed)
    decode, carry = tokenizer.decoder(), model.init_carry(1)
    prompt = tokenizer.encode(options.prompt)
    for token in prompt:  # words need to know what stands before them
        decode(token)
    with evaluating(model):
        read = torch.tensor([tokenizer.eos_id, *prompt], device=device).unsqueeze(1)
        carry, logits = model(read, carry)  # (T, 1, V)
        last, step = logits[-1], model.bind(carry)
        for index in range(options.tokens):
            if index:
                carry, last = step(carry, torch.tensor([token], device=device))
            chances = last[0].float().cpu()
            if tokenizer.unk_id is not None and not options.allow_unk:
                chances[tokenizer.unk_id] = -torch.inf
            token = draw(chances, options, generator)
            yield decode(token)


def check_prompt(tokenizer: Tokenizer, prompt: str, key: str = "prompt") -> None:
    """Raise ConfigError, naming `key`, if the vocabulary lacks something of `prompt`."""
    missing = tokenizer.missing(prompt)
    if missing:
        shown = ", ".join(repr(item) for item in missing[:20])
        raise ConfigError(f"{key}={prompt!r} has what the vocabulary lacks: {shown}; leave it out or replace it")


def draw(logits: Tensor, options: SamplingConfig, generator: torch.Generator) -> int:
    """One token from logits (V,). Raises NonFiniteError if there is NaN or infinity in them."""
    if not logits.max().isfinite():
        raise NonFiniteError("the logits of the model are not finite: no token can be drawn")
    if options.temperature == 0:
        return int(logits.argmax())
    logits = (logits.double() - logits.max()) / options.temperature  # at most 0: nothing overflows
    if options.top_k is not None and options.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(options.top_k).values[-1], -torch.inf)
    probabilities = logits.softmax(0)
    if options.top_p is not None and options.top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        outside = ranked.cumsum(0) - ranked >= options.top_p  # the first token is always inside
        probabilities[order[outside]] = 0
    # As torch.multinomial draws one, without its checks, each of which would take as long.
    return int((probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax())
