"""Words that hydra would misread or ignore are refused in a line that says what to use instead."""

from __future__ import annotations

import re

import pytest

from seqlm.config.compose import compose_words
from seqlm.config.flags import FLAGS, check_words
from seqlm.errors import ConfigError

from ..conftest import seqlm

REFUSED = [
    ("--multirun seed=1,2 --cfg job", "--multirun and --cfg do not go together; leave out -m"),
    ("-m --info", "--multirun and --info do not go together"),
    ("--cfg=3", "--cfg=3 is unknown; allowed: job, hydra, all"),
    ("--cfg", "--cfg needs a value: job, hydra, all"),
    ("-c nothing", "--cfg=nothing is unknown"),
    ("--resolve", "--resolve needs --cfg job"),
    ("--multi", "--multi is unknown; did you mean --multirun?"),
    ("-m=3", "--multirun=3 takes no value"),
    ("--shell-completion install=bash", "tab completion is `seqlm completion bash|zsh|fish`"),
    ("--experimental-rerun x", "use `seqlm resume RUN`"),
    ("--config-dir nowhere", "--config-dir=nowhere is not a folder"),
    ("=3", "=3 is not key=value"),
    ("+=3", "[+]=3 is not key=value"),
    ("model gru", "model is not key=value; write group=option.*gru is not key=value"),
    ("hydra.run.dir=here", "hydra.run.dir changes nothing: .* use run.root=DIR run.name=NAME"),
    ("hydra.job.chdir=true", "hydra.job.chdir changes nothing: .*run.root=DIR"),
    ("hydra.verbose=true +hydra.output_subdir=x", "hydra.verbose changes nothing.*hydra.output_subdir changes nothing"),
    ("modle=gru", "modle is neither a group nor a key; did you mean model=gru?"),
    ("model/cel=gru", "did you mean model/cell=gru?"),
    ("date=ptb", "did you mean data=ptb?"),
    ("model=gruu", "model=gruu is unknown; did you mean gru. allowed: bilm, "),
    ("experiment=zaremba", "did you mean zaremba_large, zaremba_medium, zaremba_small. allowed: .*book_rnnlm"),
    ("-m model=gru,ltsm", "model=ltsm is unknown; did you mean lstm"),
    ("optim=sdg train.step=3", "did you mean sgd.*train.step is not a key .*; did you mean train.steps?"),
    ("model=3", "model=3 is unknown; allowed: "),
    ("model=", "model= is unknown; allowed: "),
    ("model=[gru,lstm]", "is unknown; "),
    ("experiment=null", "experiment=null chooses nothing; leave it out, or write ~experiment"),
    ("+experiment=laptop", "[+]experiment=laptop adds a group that is there; write experiment=laptop"),
    ("~nothing", "nothing is not a key"),
    ("model/head@model.head.tags=crff", "did you mean crf?"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[words for words, _ in REFUSED])
def test_words_are_refused(words, message, tmp_path):
    failed = seqlm("train", *words.split(), cwd=tmp_path, check=False)
    assert failed.returncode == 2 and failed.stdout == "", failed.stdout + failed.stderr
    assert re.search(message, failed.stderr, re.S), failed.stderr
    assert failed.stderr.startswith("seqlm: ") and "Traceback" not in failed.stderr
    assert len(failed.stderr.splitlines()) <= 3
    assert not [path for path in tmp_path.rglob("config.yaml")], "a run was made"


def test_the_flags_are_those_of_hydra():
    """All that hydra knows are allowed, or refused by name."""
    from hydra._internal.utils import get_args_parser

    from seqlm.config.flags import REFUSED as NOT_FOR_US
    from seqlm.config.flags import SHORT

    known = {name for action in get_args_parser()._actions for name in action.option_strings}
    assert known - {"--help", "-h", "--version"} == {*FLAGS, *NOT_FOR_US, *SHORT}


def test_words_that_are_right():
    check_words(["-m", "model=gru,lstm", "--config-dir", ".", "~optim.betas", "+x=1", "hydra.sweep.dir=x"])
    check_words(["--cfg", "job", "--resolve", "-p", "model", "--info"][:5])
    check_words(["--info", "model=gru"])
    check_words(["--info", "searchpath", "hydra/launcher=basic"])


def test_from_python_the_same_holds():
    with pytest.raises(ConfigError, match="hydra.run.dir changes nothing"):
        compose_words(["hydra.run.dir=x"])
