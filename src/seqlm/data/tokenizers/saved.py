"""A tokenizer as a run keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import ConfigError, describe
from ...files import MB, read_json
from .text import KINDS, UNK, ByteTokenizer, texts_of

MOST_BYTES = 48 * MB  # of a tokenizer.json: some four million words


def load_tokenizer(path: Path) -> Any:
    """The tokenizer saved in `path`; raises ConfigError if it is missing, damaged or of an unknown kind."""
    from .examples import ExampleTokenizer  # which loads torch: texts are encoded without it

    try:
        data = read_json(path, MOST_BYTES)
        if not isinstance(data, dict):
            raise ValueError("it should be a mapping")
        kinds = {**KINDS, ExampleTokenizer.kind: ExampleTokenizer}
        kind, settings = data.get("kind"), data.get("settings")
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(f"kind={kind!r:.80} should be {' or '.join(kinds)}")
        if not isinstance(settings, dict):
            raise ValueError(f"settings={settings!r:.80} should be a mapping")
        if kind == ExampleTokenizer.kind:
            return ExampleTokenizer.load(data)
        tokenizer = KINDS[kind](**settings)
        if isinstance(tokenizer, ByteTokenizer):
            return tokenizer
        vocabulary = texts_of("vocabulary", data.get("vocabulary"))
        if len(vocabulary) < 2:
            raise ValueError(f"vocabulary has {len(vocabulary)} entries, but {UNK} and the end of a line are two")
        return tokenizer.with_vocabulary(vocabulary)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else describe(error)
        raise ConfigError(f"{path} is not a tokenizer of seqlm: {said}") from error
