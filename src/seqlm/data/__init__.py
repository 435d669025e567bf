"""Text: where it comes from, how it becomes token ids, and how a model reads them."""

from .atis import Atis
from .batches import Batch, Batches
from .bucketed import Bucketed, EncodedExamples, ExampleBatch
from .corpus import SPLITS, Corpus, TextCounts
from .dataset import Data
from .encode import Counts, Encoded, cache_folder, encode_split, fit_tokenizer
from .enwik8 import Enwik8
from .example_tokenizer import ExampleTokenizer
from .examples import Example, Examples
from .features import Features
from .labelled import Labelled
from .ptb import PennTreebank
from .ptbchar import PennTreebankChar
from .pydoc import PydocCorpus
from .sources import HiddenMarkov, MarkovChain
from .streams import IGNORE, Lengths, Streams, Window
from .text import TextCorpus
from .text8 import Text8
from .tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from .wikitext import WikiText2, WikiText103

__all__ = [
    "IGNORE",
    "SPLITS",
    "Atis",
    "Batch",
    "Batches",
    "Bucketed",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "Counts",
    "Data",
    "Encoded",
    "EncodedExamples",
    "Enwik8",
    "Example",
    "ExampleBatch",
    "ExampleTokenizer",
    "Examples",
    "Features",
    "HiddenMarkov",
    "Labelled",
    "Lengths",
    "MarkovChain",
    "PennTreebank",
    "PennTreebankChar",
    "PydocCorpus",
    "Streams",
    "Text8",
    "TextCorpus",
    "TextCounts",
    "Tokenizer",
    "WikiText103",
    "WikiText2",
    "Window",
    "WordTokenizer",
    "cache_folder",
    "encode_split",
    "fit_tokenizer",
    "load_tokenizer",
]
