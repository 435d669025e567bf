"""Text: where it comes from, how it becomes token ids, and how a model reads them."""

from .corpus import SPLITS, Corpus, TextCounts
from .encode import Counts, Encoded, cache_folder, encode_split, fit_tokenizer
from .ptb import PennTreebank
from .pydoc import PydocCorpus
from .sources import HiddenMarkov, MarkovChain
from .streams import IGNORE, Lengths, Streams, Window
from .text import TextCorpus
from .tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer, load_tokenizer

__all__ = [
    "IGNORE",
    "SPLITS",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "Counts",
    "Encoded",
    "HiddenMarkov",
    "Lengths",
    "MarkovChain",
    "PennTreebank",
    "PydocCorpus",
    "Streams",
    "TextCorpus",
    "TextCounts",
    "Tokenizer",
    "Window",
    "WordTokenizer",
    "cache_folder",
    "encode_split",
    "fit_tokenizer",
    "load_tokenizer",
]
