"""Text sources, tokenizers, the cache, and the layout of streams."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from seqlm.cache.private import cache_folder
from seqlm.data.batching.batches import IGNORE_INDEX
from seqlm.data.batching.streams import Streams
from seqlm.data.corpus import TextCounts
from seqlm.data.encode import encode_split, fit_tokenizer
from seqlm.data.sources.entropy import HiddenMarkov, MarkovChain
from seqlm.data.sources.ptb import PennTreebank
from seqlm.data.sources.pydoc import PydocCorpus
from seqlm.data.sources.text import TextCorpus
from seqlm.data.tokenizers.saved import load_tokenizer
from seqlm.data.tokenizers.text import ByteTokenizer, CharTokenizer, WordTokenizer
from seqlm.errors import ConfigError

TEXT = "the cat  sat\n\non the mat — naïve 😀\nthe end"


def blocks(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


# ---- tokenizers


@pytest.mark.parametrize("make", [CharTokenizer, ByteTokenizer])
def test_text_survives_a_round_trip(make):
    tokenizer = make().fit([TEXT])
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.decode([tokenizer.eos_id]) == "\n"


def test_words_and_line_ends():
    tokenizer = WordTokenizer().fit([TEXT])
    assert tokenizer.vocabulary[:3] == ["<unk>", "<eos>", "the"]  # specials, then by frequency
    ids = list(np.concatenate(list(tokenizer.encode_blocks([TEXT]))))
    words = [tokenizer.vocabulary[i] for i in ids]
    assert words == [
        "the",
        "cat",
        "sat",
        "<eos>",
        "<eos>",
        "on",
        "the",
        "mat",
        "—",
        "naïve",
        "😀",
        "<eos>",
        "the",
        "end",
        "<eos>",
    ]
    assert tokenizer.decode(ids) == "the cat sat\n\non the mat — naïve 😀\nthe end\n"
    assert tokenizer.encode("the dog") == [2, 0] and tokenizer.missing("the dog dog ox") == ["dog", "ox"]


@pytest.mark.parametrize("make", [CharTokenizer, WordTokenizer, ByteTokenizer])
@pytest.mark.parametrize("text", [TEXT, TEXT + "\n", TEXT + " ", "", "\n", "one"])
def test_block_boundaries_change_nothing(make, text):
    tokenizer = make().fit([TEXT])
    whole = [int(i) for ids in tokenizer.encode_blocks([text]) for i in ids]
    for size in (1, 2, 3, 7):
        cut = [int(i) for ids in tokenizer.encode_blocks(blocks(text, size)) for i in ids]
        assert cut == whole
        assert make().fit(blocks(TEXT, size)).vocabulary == tokenizer.vocabulary


def test_a_text_without_spaces_is_not_one_word():
    with pytest.raises(ConfigError, match="longer than 1,048,576 characters: ACGTACGTACGT.*tokenizer=char"):
        WordTokenizer().fit(["ACGT" * (1 << 18)] * 3)


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n", "a", " ", "a \n b"])
def test_counts_agree_with_the_word_tokenizer(text):
    tokenizer = WordTokenizer().fit([text])
    expected = sum(len(ids) for ids in tokenizer.encode_blocks([text]))
    for size in (1, 2, 5, 100):
        count = TextCounts()
        for block in blocks(text, size):
            count.add(block)
        assert (count.words, count.characters) == (expected, len(text))


def test_cut_offs():
    text = "a a a b b c"
    assert WordTokenizer(min_count=2).fit([text]).vocabulary == ["<unk>", "<eos>", "a", "b"]
    assert WordTokenizer(max_size=3).fit([text]).vocabulary == ["<unk>", "<eos>", "a"]
    assert CharTokenizer(min_count=3).fit([text]).vocabulary == ["<unk>", "\n", " ", "a"]
    tokenizer = CharTokenizer(max_size=3).fit([text])
    assert tokenizer.vocabulary == ["<unk>", "\n", " "] and tokenizer.encode("a b") == [0, 2, 0]
    assert tokenizer.missing("a b a") == ["a", "b"]
    for wrong in ({"min_count": 0}, {"max_size": 2}):
        with pytest.raises(ValueError, match="must be at least"):
            WordTokenizer(**wrong)


@pytest.mark.parametrize("tokenizer", [CharTokenizer(min_count=2), WordTokenizer(max_size=5), ByteTokenizer()])
def test_saved_tokenizers_come_back(tokenizer, tmp_path):
    fitted = tokenizer.fit([TEXT])
    fitted.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json")
    assert loaded.vocabulary == fitted.vocabulary and loaded.encode(TEXT) == fitted.encode(TEXT)
    assert loaded.settings() == fitted.settings() and (loaded.eos_id, loaded.unk_id) == (fitted.eos_id, fitted.unk_id)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kind": "bpe", "settings": {}, "vocabulary": []}', "\x00"])
def test_damaged_tokenizer_files_are_refused(content, tmp_path):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ConfigError, match="is not a tokenizer of seqlm"):
        load_tokenizer(tmp_path / "t.json")


def test_bytes_decode_across_token_boundaries():
    tokenizer = ByteTokenizer()
    decode = tokenizer.decoder()
    assert [decode(i) for i in tokenizer.encode("é😀x")] == ["", "é", "", "", "", "😀", "x"]


# ---- text files


def test_a_file_is_split_at_line_ends(tmp_path):
    lines = [f"line {i}\n" for i in range(200)]
    (tmp_path / "a.txt").write_text("".join(lines))
    corpus = TextCorpus(path=str(tmp_path / "a.txt"), fractions=[0.8, 0.1, 0.1])
    texts = ["".join(corpus.read(split)) for split in corpus.splits()]
    assert "".join(texts) == "".join(lines) and all(text.startswith("line") and text.endswith("\n") for text in texts)
    assert [len(text) / len("".join(lines)) for text in texts] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_a_folder_is_its_files_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", ".hidden"):
        (tmp_path / name).write_text("".join(f"{name} {i}\n" for i in range(30)))
    (tmp_path / "empty").touch()
    corpus = TextCorpus(path=str(tmp_path))
    text = "".join("".join(corpus.read(split)) for split in corpus.splits())
    assert text == "".join(f"{name} {i}\n" for name in ("a.txt", "b.txt", "sub/c.txt") for i in range(30))


def test_files_of_a_folder_are_not_glued_together(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone two\nthe end")  # a byte order mark, and no last line feed
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfstart of it\n" * 3)
    corpus = TextCorpus(train=str(tmp_path), valid=str(tmp_path / "b.txt"))
    text = "".join(corpus.read("train"))
    assert text.startswith("one two\nthe end\nstart of it\n")
    assert "end" in fit_tokenizer(corpus, WordTokenizer()).vocabulary


def test_a_folder_split_already_and_files_given_apart(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text(f"{split} text\n")
    corpus = TextCorpus(path=str(tmp_path))
    apart = TextCorpus(train=str(tmp_path / "train.txt"), valid=str(tmp_path / "valid.txt"))
    for made in (corpus, apart):
        assert made.splits() == ("train", "valid") and "".join(made.read("valid")) == "valid text\n"


def test_long_lines_are_cut_between_characters(tmp_path):
    (tmp_path / "a.txt").write_text("é" * 300_000, encoding="utf-8")
    corpus = TextCorpus(path=str(tmp_path / "a.txt"), fractions=[0.5001, 0.4999])
    assert "".join("".join(corpus.read(split)) for split in corpus.splits()) == "é" * 300_000


def test_missing_empty_and_contradictory_texts_are_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "one.txt").write_text("one line\n")
    (tmp_path / "folder").mkdir()
    cases = [
        ({}, "data.path is not set"),
        ({"path": "x", "train": "y"}, "exclude each other"),
        ({"train": "y"}, "data.valid is not set"),
        ({"path": str(tmp_path / "nope")}, "nope does not exist"),
        ({"path": str(tmp_path / "empty.txt")}, "empty.txt is empty"),
        ({"path": str(tmp_path / "folder")}, "folder without any text"),
        ({"path": str(tmp_path / "one.txt")}, "too short to split"),
        ({"path": str(tmp_path / "one.txt"), "fractions": [0.5, 0.6]}, "sum 1"),
    ]
    for arguments, message in cases:
        with pytest.raises(ConfigError, match=message):
            TextCorpus(**arguments)


# ---- embedded and known sources


def test_pydoc_is_deterministic_english_split_by_documents():
    first, second = PydocCorpus(), PydocCorpus()
    texts = {split: list(first.read(split)) for split in first.splits()}
    assert texts == {split: list(second.read(split)) for split in second.splits()}
    sizes = {split: sum(map(len, documents)) for split, documents in texts.items()}
    assert 1_000_000 < sum(sizes.values()) < 5_000_000
    assert sizes["train"] / sum(sizes.values()) == pytest.approx(0.9, abs=0.05)
    assert min(sizes.values()) > 30_000
    assert not set(texts["train"]) & set(texts["valid"])
    everything = "".join(itertools.chain(*texts.values()))
    assert "json.dumps(obj, *, skipkeys=False" in everything and "The standard type hierarchy" in everything
    assert first.fingerprint("train") == second.fingerprint("train") != first.fingerprint("valid")


@pytest.mark.data
def test_ptb_counts(ptb):
    corpus = PennTreebank(path=str(ptb))
    tokenizer = fit_tokenizer(corpus, WordTokenizer())
    assert len(tokenizer) == 10_000
    assert [len(encode_split(corpus, split, tokenizer).tokens) for split in corpus.splits()] == [
        929_589,
        73_760,
        82_430,
    ]


def test_another_ptb_is_refused(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.{split}.txt").write_text(" a b \n c \n")
    with pytest.raises(ConfigError, match=r"ptb.train.txt holds 5 tokens, the train text of the literature 929,589"):
        PennTreebank(path=str(tmp_path))
    with pytest.raises(ConfigError, match="does not exist; without data.path it is downloaded"):
        PennTreebank(path=str(tmp_path / "nope"))


def test_the_entropy_rate_of_a_known_chain():
    chain = MarkovChain(symbols=2, tokens=100)
    chain._next = np.array([[0.9, 0.1], [0.4, 0.6]])  # stationary: 0.8, 0.2

    def h(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert chain.entropy_rate == pytest.approx(0.8 * h(0.1) + 0.2 * h(0.4), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_drawn_text_has_the_computed_entropy(order):
    chain = MarkovChain(symbols=4, order=order, tokens=100_000, seed=3)
    text = "".join(chain.read("train"))
    symbols = ["abcd".index(character) for character in text]
    nats = []
    for t in range(order, len(symbols)):
        context = 0
        for symbol in symbols[t - order : t]:
            context = context * 4 + symbol
        nats.append(-math.log(chain._next[context, symbols[t]]))
    assert np.mean(nats) == pytest.approx(chain.entropy_rate, abs=4 * np.std(nats) / math.sqrt(len(nats)))
    assert "".join(MarkovChain(symbols=4, order=order, tokens=100_000, seed=3).read("train")) == text
    assert len("".join(chain.read("test"))) == 10_000


def test_hidden_markov_bounds_enclose_what_the_true_model_scores():
    source = HiddenMarkov(states=3, symbols=3, tokens=60_000, seed=1)
    bounds = [source.entropy_bounds(n) for n in (2, 4, 7)]
    for (low, high), (tighter_low, tighter_high) in itertools.pairwise(bounds):
        assert low <= tighter_low + 1e-12 and tighter_high <= high + 1e-12
    low, high = bounds[-1]
    assert high - low < 0.1
    belief, nats = np.full(3, 1 / 3), []
    for character in "".join(source.read("train")):  # the forward algorithm, with the true tables
        belief = belief @ source._move
        joint = belief * source._emit[:, "abc".index(character)]
        nats.append(-math.log(joint.sum()))
        belief = joint / joint.sum()
    error = 4 * np.std(nats) / math.sqrt(len(nats))
    assert low - error < np.mean(nats) < high + error


@pytest.mark.parametrize(
    "source", [HiddenMarkov(states=9, symbols=52, tokens=100), MarkovChain(symbols=8, order=4, tokens=100)]
)
def test_large_sources_are_described_in_little_time_and_memory(source):
    assert "nats a symbol" in source.note()


def test_a_hidden_chain_that_shows_itself_is_a_chain():
    source, chain = HiddenMarkov(states=3, symbols=3, tokens=100), MarkovChain(symbols=3, tokens=100)
    source._emit, chain._next = np.eye(3), source._move
    assert source.entropy_bounds(5) == pytest.approx((chain.entropy_rate, chain.entropy_rate), abs=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"symbols": 1}, {"symbols": 99}, {"order": 0}, {"order": 9}, {"tokens": 5}, {"concentration": 0}]
)
def test_impossible_sources_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"data.{next(iter(wrong))}="):
        MarkovChain(**wrong)


# ---- the cache


def corpus_of(tmp_path, text="one two three two\n" * 50):
    (tmp_path / "a.txt").write_text(text)
    return TextCorpus(path=str(tmp_path / "a.txt"))


def test_the_cache_is_keyed_by_content_and_settings(tmp_path):
    corpus = corpus_of(tmp_path)
    tokenizer = fit_tokenizer(corpus, WordTokenizer())
    encoded = encode_split(corpus, "train", tokenizer)
    assert encoded.tokens.dtype == np.uint16 and not encoded.tokens.flags.writeable
    again = encode_split(corpus, "train", fit_tokenizer(corpus, WordTokenizer()))
    assert again.fingerprint == encoded.fingerprint
    fewer = encode_split(corpus, "train", fit_tokenizer(corpus, WordTokenizer(max_size=3)))
    assert fewer.fingerprint != encoded.fingerprint and (fewer.tokens == 0).sum() > 0
    changed = corpus_of(tmp_path, "one two three four\n" * 50)
    assert encode_split(changed, "train", tokenizer).fingerprint != encoded.fingerprint
    assert encoded.counts.tokens == len(encoded.tokens) == encoded.counts.words


@pytest.mark.parametrize("name", ["tokens.bin", "counts.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "flip"])
def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch, capsys, name, damage):
    """One flipped bit in a token is another token: nothing but a digest would show it."""
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "cache"))
    corpus = corpus_of(tmp_path)

    def made():
        tokenizer = fit_tokenizer(corpus, WordTokenizer())
        encoded = encode_split(corpus, "train", tokenizer)
        return encoded.tokens.tolist(), encoded.counts, tokenizer.vocabulary

    whole = made()
    (file,) = (tmp_path / "cache").glob(f"*/{name}")
    content = file.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    file.write_bytes({"cut": content[:-1], "empty": b"", "flip": flipped}[damage])
    assert made() == whole and file.read_bytes() == content
    assert capsys.readouterr().err.count("is damaged") == 1


def test_text_that_changes_while_it_is_read_is_refused(tmp_path):
    class Moving(TextCorpus):
        reads = 0

        def read(self, split):
            self.reads += 1
            return iter([f"text {self.reads}\n"])

    corpus_of(tmp_path)
    with pytest.raises(ConfigError, match="changed while it was read"):
        encode_split(Moving(path=str(tmp_path / "a.txt")), "train", ByteTokenizer())


def test_a_tokenizer_that_could_not_be_saved_is_refused(tmp_path):
    class Lower(CharTokenizer):
        pass

    with pytest.raises(ConfigError, match="a run can save only: char, word, byte"):
        fit_tokenizer(corpus_of(tmp_path), Lower())


def test_vocabulary_comes_from_train_unless_asked(tmp_path):
    for split, text in (("train", "a b\n"), ("valid", "a c\n")):
        (tmp_path / f"{split}.txt").write_text(text)
    corpus = TextCorpus(path=str(tmp_path))
    assert "c" not in fit_tokenizer(corpus, WordTokenizer()).vocabulary
    assert "c" in fit_tokenizer(corpus, WordTokenizer(), "all").vocabulary
    with pytest.raises(ConfigError, match="split=test does not exist in this data; it has: train, valid"):
        encode_split(corpus, "test", fit_tokenizer(corpus, WordTokenizer()))


def test_large_vocabularies_take_four_bytes(tmp_path):
    corpus = corpus_of(tmp_path, "\n".join(f"w{i}" for i in range(80_000)))
    encoded = encode_split(corpus, "train", fit_tokenizer(corpus, WordTokenizer(), "all"))
    assert encoded.tokens.dtype == np.uint32 and encoded.tokens.max() > 1 << 16


def test_limits_count_anew(tmp_path):
    corpus = corpus_of(tmp_path)
    tokenizer = fit_tokenizer(corpus, CharTokenizer())
    limited = encode_split(corpus, "train", tokenizer).limited(18, tokenizer)
    assert (len(limited.tokens), limited.counts.characters, limited.counts.words) == (18, 18, 5)
    few = fit_tokenizer(corpus, CharTokenizer(max_size=5))
    limited = encode_split(corpus, "train", few).limited(18, few)
    assert few.unk_id in limited.tokens and limited.counts.characters == 18, "an unknown character is one, not <unk>"
    words = fit_tokenizer(corpus, WordTokenizer())
    whole = encode_split(corpus, "train", words)
    assert [whole.limited(limit, words).counts.words for limit in range(1, len(whole))] == [*range(1, len(whole))]
    assert len({whole.fingerprint, *(whole.limited(limit, words).fingerprint for limit in (3, 4))}) == 3


def test_processes_that_encode_at_once_never_see_half_a_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("".join(f"some words {i}\n" for i in range(60_000)))
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "cache"))
    code = (
        "import sys; from seqlm.data.encode import *; from seqlm.data.sources.text import TextCorpus; "
        "from seqlm.data.tokenizers.text import *; c = TextCorpus(path=sys.argv[1]); "
        "e = encode_split(c, 'train', fit_tokenizer(c, WordTokenizer())); print(len(e.tokens), int(e.tokens.sum()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.txt")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate()[0] for process in processes}
    assert len(outputs) == 1 and all(process.returncode == 0 for process in processes)
    assert not [path.name for path in (tmp_path / "cache").glob(".*-*")]


def test_encoding_needs_little_memory(tmp_path, monkeypatch):
    """40 MB of text must not cost much more than 4 MB do: what grows with the text stays on disk."""
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "cache"))
    code = (
        "import sys; from seqlm.data.encode import *; from seqlm.data.sources.text import TextCorpus; "
        "from seqlm.data.tokenizers.text import *; c = TextCorpus(path=sys.argv[1]); "
        "[encode_split(c, s, fit_tokenizer(c, t())) for t in (WordTokenizer, CharTokenizer) for s in c.splits()]; "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    peaks = []
    for megabytes in (4, 40):
        (tmp_path / "a.txt").write_text("the quick brown fox jumps over a lazy dog\n" * (megabytes * 25_000))
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a.txt")], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 20, peaks


def test_an_unwritable_cache_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEQLM_CACHE", str(tmp_path / "file" / "cache"))
    assert cache_folder() == Path(tmp_path / "file" / "cache")
    with pytest.raises(ConfigError, match="set SEQLM_CACHE to another folder"):
        fit_tokenizer(corpus_of(tmp_path), WordTokenizer())


# ---- streams


@pytest.mark.parametrize("tokens", [11, 12, 20, 47])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 11])
@pytest.mark.parametrize("bptt", [1, 2, 4, 100])
def test_every_token_is_a_target_once_and_follows_its_input(tokens, batch_size, bptt):
    text = np.arange(100, 100 + tokens, dtype=np.uint16)
    streams = Streams(text, batch_size, bptt, first=7, clip=True)
    columns, targets = [[] for _ in range(batch_size)], []
    for index in range(len(streams)):
        inputs, wanted, count = streams[index]
        assert inputs.dtype == wanted.dtype == torch.int64 and inputs.shape == wanted.shape
        assert count == (wanted != IGNORE_INDEX).sum()
        for column in range(batch_size):
            for x, y in zip(inputs[:, column].tolist(), wanted[:, column].tolist(), strict=True):
                if y != IGNORE_INDEX:
                    assert x == (7 if y == 100 else y - 1)
                    columns[column].append(y)
                    targets.append(y)
    assert sorted(targets) == text.tolist()
    assert [y for column in columns for y in column] == text.tolist()  # contiguous, in order


def test_the_layout_in_the_documentation():
    streams = Streams(np.arange(11, dtype=np.uint16), 2, 4, first=99)
    (inputs, targets, count), (inputs2, targets2, count2) = streams[0], streams[1]
    assert inputs.T.tolist() == [[99, 0, 1, 2], [5, 6, 7, 8]] and targets.T.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert (
        inputs2.T.tolist()[0] == [3, 4] and targets2.T.tolist() == [[4, 5], [10, IGNORE_INDEX]] and inputs2[0, 1] == 9
    )
    assert (count, count2, len(streams)) == (8, 3, 2)


def test_texts_too_small_are_refused_with_the_keys():
    text = np.arange(20, dtype=np.uint16)
    with pytest.raises(ConfigError, match=r"train.batch_size=21 is larger than the stream: there are 20 tokens"):
        Streams(text, 21, 2, first=0, where="train.")
    with pytest.raises(ConfigError, match=r"train.bptt=11 is longer than the text.*use train.bptt=10 at most"):
        Streams(text, 2, 11, first=0, where="train.")
