"""Text: where it comes from, how it becomes token ids, and how a model reads them."""

from .atis import Atis
from .batches import Batch, Batches
from .both import Both, Pair
from .bucketed import Bucketed, EncodedExamples, ExampleBatch
from .conll import Conll
from .corpus import SPLITS, Corpus, TextCounts
from .dataset import Data
from .dates import Dates
from .encode import Counts, Encoded, cache_folder, encode_split, fit_tokenizer
from .enwik8 import Enwik8
from .example_tokenizer import END, UNKNOWN, ExampleTokenizer
from .examples import Example, Examples, check_rename
from .features import Features
from .gaps import Gaps
from .generated import Arithmetic, Copy, Reverse
from .iob import Iob
from .labelled import Labelled
from .parallel import Parallel
from .ptb import PennTreebank
from .ptbchar import PennTreebankChar
from .pydoc import PydocCorpus
from .sources import HiddenMarkov, MarkovChain
from .streams import IGNORE, Lengths, Streams, Window
from .taipei import Taipei
from .text import TextCorpus
from .text8 import Text8
from .tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from .wikitext import WikiText2, WikiText103

__all__ = [
    "END",
    "IGNORE",
    "SPLITS",
    "UNKNOWN",
    "Arithmetic",
    "Atis",
    "Batch",
    "Batches",
    "Both",
    "Bucketed",
    "ByteTokenizer",
    "CharTokenizer",
    "Conll",
    "Copy",
    "Corpus",
    "Counts",
    "Data",
    "Dates",
    "Encoded",
    "EncodedExamples",
    "Enwik8",
    "Example",
    "ExampleBatch",
    "ExampleTokenizer",
    "Examples",
    "Features",
    "Gaps",
    "HiddenMarkov",
    "Iob",
    "Labelled",
    "Lengths",
    "MarkovChain",
    "Pair",
    "Parallel",
    "PennTreebank",
    "PennTreebankChar",
    "PydocCorpus",
    "Reverse",
    "Streams",
    "Taipei",
    "Text8",
    "TextCorpus",
    "TextCounts",
    "Tokenizer",
    "WikiText103",
    "WikiText2",
    "Window",
    "WordTokenizer",
    "cache_folder",
    "check_rename",
    "encode_split",
    "fit_tokenizer",
    "load_tokenizer",
]
