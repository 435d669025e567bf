"""WikiText: good articles of Wikipedia, split into words, rare ones replaced by <unk>; the version that is not raw."""

from __future__ import annotations

from .download import Remote
from .published import PublishedWords


class WikiText2(PublishedWords):
    """WikiText-2 from `path`, a folder or archive with wiki.{train,valid,test}.tokens, or downloaded (4.5 MB).

    Raises ConfigError unless the splits hold 2,088,628 / 217,646 / 245,569 tokens with one <eos> a line; 33,278 word
    types. S. Merity et al., "Pointer Sentinel Mixture Models", arXiv 1609.07843. CC BY-SA.
    """

    REMOTES = (
        Remote(
            "https://wikitext.smerity.com/wikitext-2-v1.zip",
            "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
            4_475_746,
        ),
    )
    TOKENS = {"train": 2_088_628, "valid": 217_646, "test": 245_569}
    NAMES = ("wiki.{split}.tokens", "{split}.txt", "wikitext-2/wiki.{split}.tokens")


class WikiText103(PublishedWords):
    """WikiText-103 from `path`, a folder or archive with wiki.{train,valid,test}.tokens, or downloaded (190 MB).

    Raises ConfigError unless the splits hold 103,227,021 / 217,646 / 245,569 tokens with one <eos> a line.
    S. Merity et al., "Pointer Sentinel Mixture Models", arXiv 1609.07843. CC BY-SA.
    """

    REMOTES = (
        Remote(
            "https://wikitext.smerity.com/wikitext-103-v1.zip",
            "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
            190_229_076,
        ),
    )
    TOKENS = {"train": 103_227_021, "valid": 217_646, "test": 245_569}
    NAMES = ("wiki.{split}.tokens", "{split}.txt", "wikitext-103/wiki.{split}.tokens")
