"""The verbs of the command line: one entry each, which is its help and its completion, too.

An entry lists the words of its verb with their meaning and default. Words in capitals are given by the user: RUN, DIR,
FILE, LEVEL; others are typed as they stand, `a|b` is a choice. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Hydra's own flags are spelt as in `config/flags.py`, which says what becomes of them.
TRAIN_WORDS = {
    "group=option": "choose a part: model=gru, data/tokenizer=word; groups and options are listed below",
    "key=value": "override a key, listed below with its default; +key=value adds one, ~key removes one",
    "-m, --multirun": "a run for each combination of values with commas: -m model=gru,lstm seed=1,2; without: one run",
    "--config-dir DIR": "a folder with groups and options of your own: DIR/model/mine.yaml; default: none",
    "--cfg job|hydra|all": "print the configuration: job is ours, hydra that of hydra; default: train",
    "--resolve": "with --cfg: replace ${...} by values; default: shown as they stand",
    "-p, --package PART": "with --cfg: this part of it only, as --package model; default: all",
    "--info all|config|defaults|defaults-tree|plugins|searchpath": "how it is composed, and from where; default: all",
}
SLURM_WORDS = {
    "slurm=true": "submit to SLURM and leave, with the keys slurm.* listed below; default: run here",
    "--print": "with slurm=true: print the batch script; default: submit it",
}
KEYS = {"key=value": "a key listed below, with its default; any may be left out"}
RUN = {"RUN": "a run: its folder, or its name in outputs"}


# Names that other programs have for a verb.
SYNONYMS = {
    "generate": "sample", "test": "eval", "validate": "eval", "ls": "runs", "list": "runs", "infer": "predict",
    "inference": "predict", "fit": "train", "continue": "resume", "delete": "rm", "remove": "rm", "benchmark": "bench",
    "watch": "tail", "follow": "tail", "grid": "sweep",
    "surprisal": "score", "rescore": "score", "ppl": "score",
}  # fmt: skip


class Verb(NamedTuple):
    """A verb of the command line, and the words that it takes.

    Args:
        usage: its words in short, behind `seqlm VERB`.
        sentence: what it does.
        words: meaning and default of each word.
        examples: commands, each with what it does.
        keys: whose keys its `key=value` words are: "train", composed from configs/train.yaml and groups; "resume",
            those of them that may change; else the name of a file in configs/.
        also: a file in configs/ whose keys it has beside them.
    """

    usage: str
    sentence: str
    words: Mapping[str, str]
    examples: Sequence[tuple[str, str]] = ()
    keys: str = ""
    also: str = ""


VERBS = {
    "train": Verb(
        "[group=option] [key=value] [-m]",
        "compose a configuration from words and train it",
        {**TRAIN_WORDS, **SLURM_WORDS},
        [
            ("train", "the embedded default, minutes on a laptop"),
            ("train model=gru model.hidden_size=512 train.minutes=10", "other parts, any key"),
            ("train data=text data.path=book.txt data/tokenizer=word", "your own text"),
            ("train experiment=zaremba_small data.path=ptb", "a published setting"),
            ("train -m model=elman,gru,lstm seed=1,2,3", "nine runs"),
            ("train run.name=mine resume=auto", "start it, or resume it if it is there"),
            ("train model=gru --help", "the keys of another model"),
            ("train model=gru --cfg job", "the composed configuration"),
            ("train model=gru slurm=true slurm.time=4:00:00 slurm.gpus=1", "as a job of SLURM, requeued and resumed"),
        ],
        "train",
        "slurm",
    ),
    "sweep": Verb(
        "NAME [group=option,...] [key=value,...] [jobs=K] [retry=true] [--dry-run]",
        "train every combination of values; the same command again resumes them",
        {
            "NAME": "the folder of the sweep in run.root: outputs/NAME",
            "group=option,...": "choose a part, or several: model=lstm,gru; default: that of train",
            "key=value,...": "override a key, for several jobs as in train -m: seed=1,2,3 or seed=range(1,4); default: "
            "that of train",
            "jobs=K": "so many at once, with cores and GPUs shared out among them; default: 1",
            "retry=true": "run failed jobs again, too; default: list them",
            "search='KEY=KIND(...) ...'": "let Optuna choose values: 'optim.lr=log(1e-4,1e-1) model=choice(lstm,gru) "
            "model.hidden_size=int(100,400,50)'; also float(a,b[,step]), logint(a,b); default: every combination",
            "trials=N": "how many runs a search has, over all commands; default: none, it must be given",
            "objective=METRIC,...": "a metric of valid, parameters or tokens/s; default: the metric of the task",
            "pruner=median|hyperband|none": "when a trial ends early; default: median, with several objectives none",
            "sampler=tpe|random": "how values are chosen; default: tpe",
            "search_seed=N": "seed of the search; default: 0",
            "--dry-run": "list the jobs and how they stand; default: run them",
            "--config-dir DIR": TRAIN_WORDS["--config-dir DIR"],
            "status": "instead of other words: list the jobs of the sweep and how they stand, in SLURM's queue too",
            **SLURM_WORDS,
        },
        [
            ("sweep lr optim.lr=0.01,0.003 seed=1,2,3 jobs=2", "six runs, two at a time; again: the rest"),
            ("sweep lr optim.lr=0.01,0.003,0.001 seed=1,2,3", "three more"),
            ("sweep best search='optim.lr=log(1e-4,1e-1)' trials=40 jobs=2", "a search; again: it is resumed"),
            ("sweep lr optim.lr=0.01,0.003 seed=1,2,3 slurm=true slurm.time=4:00:00", "as a job array of SLURM"),
            ("sweep lr status", "its jobs, one a line"),
        ],
        "train",
        "slurm",
    ),
    "resume": Verb(
        "RUN [key=value]",
        "resume a run from its newest checkpoint",
        {
            **RUN,
            "key=value": "a key that may change on resume, listed below; default: as the run has it",
            **SLURM_WORDS,
        },
        [
            ("resume outputs/NAME", "after Ctrl-C, kill -9 or a power cut: the same bits"),
            ("resume outputs/NAME train.steps=20000", "extend a run"),
            ("resume outputs/NAME train.steps=20000 schedule.extend=rewarm", "with its learning rate warmed up again"),
        ],
        "resume",
        "slurm",
    ),
    "eval": Verb(
        "RUN [key=value] [--json]",
        "score a split of a run's data, every target token once",
        {**RUN, **KEYS, "--json": "print the result as JSON; default: a table"},
        [
            ("eval outputs/NAME split=test", "loss, perplexity, or the metrics of the task"),
            ("eval outputs/NAME file=new.txt", "all of another file, in the format of the run's data"),
            ("eval outputs/NAME split=test dynamic.search=true cache.search=true", "adapted, settings chosen on valid"),
        ],
        "eval",
    ),
    "sample": Verb(
        "RUN [key=value]",
        "write text with a run",
        {**RUN, **KEYS},
        [("sample outputs/NAME prompt='The ' temperature=0.7 tokens=200", "a text that begins with The")],
        "sample",
    ),
    "predict": Verb(
        "RUN FILE|- [key=value]",
        "run inference on each line of a file",
        {
            **RUN,
            "FILE|-": "a file in the format of the run's data; else a line is a text, or JSON with the fields of an "
            'example: {"words": ["show", "flights"]}; a .npy holds the vectors (T, F) of one example, a .npz several; '
            "- is standard input",
            **KEYS,
        },
        [
            ("predict outputs/NAME lines.txt", "a JSON object for each line"),
            ("predict outputs/NAME - batch_size=1", "each line is answered at once"),
        ],
        "predict",
    ),
    "score": Verb(
        "RUN FILE|- | --pairs FILE|- | --nbest FILE|- [key=value]",
        "log-probability of each token, word or line of a text; minimal pairs; n-best lists",
        {
            **RUN,
            "FILE|-": "a text, line by line; - is standard input",
            "--pairs FILE|-": "instead: minimal pairs, good<TAB>bad on each line, or BLiMP's JSON; default: none",
            "--nbest FILE|-": "instead: hypotheses, group<TAB>score<TAB>text and <TAB>errors where they are known, or "
            "JSON with these keys; the best of each group is chosen; default: none",
            **KEYS,
        },
        [
            ("score outputs/NAME text.txt level=word format=tsv", "the surprisal of each word, in bits"),
            ("score outputs/NAME text.txt format=srilm", "as ngram -ppl -debug 2 prints it"),
            ("score outputs/NAME --pairs agreement.jsonl", "how often the good sentence is the more probable one"),
            ("score outputs/NAME --nbest hypotheses.tsv", "the best of each group, by its score and the model's"),
        ],
        "score",
    ),
    "diagnose": Verb(
        "RUN ... [key=value] [--json] [--png FILE]",
        "gradients through time, recurrent matrices, gates, units, and the context that is used",
        {
            "RUN ...": "runs: their folders, or their names in outputs; pictures and numbers go into RUN/diagnose",
            "demo": "in place of runs: the textbook's gradient of ones, sent through random matrices",
            **KEYS,
            "--json": "print the numbers as JSON; default: a line for each finding",
            "--png FILE": "of several runs, a picture side by side; of demo, its picture; default: none",
        },
        [
            ("diagnose outputs/NAME", "what it remembers, and what it learns from"),
            ("diagnose outputs/ELMAN outputs/LSTM --png both.png", "two kinds of cell side by side"),
            ("diagnose demo --png demo.png", "why gradients vanish or explode"),
        ],
        "diagnose",
    ),
    "runs": Verb(
        "[DIR] [--sort COLUMN] [--filter CONDITIONS] [--json|--csv]",
        "list runs, best first",
        {
            "DIR": "every run below this folder; default: outputs",
            "--sort COLUMN": "order by a column, downwards with a minus: --sort=-date; default: best on valid first",
            "--filter CONDITIONS": "only runs that meet them: 'model=gru valid<90 tags=baseline'; default: all",
            "--json": "all columns as JSON; default: a table of those that fit",
            "--csv": "the same with commas between; default: a table",
        },
        [("runs", "those in outputs"), ("runs --filter 'model=gru valid<90'", "some of them")],
    ),
    "tail": Verb(
        "RUN|SWEEP [key=value]",
        "watch a run or a sweep while it trains, from any machine that sees its folder",
        {"RUN|SWEEP": "a run or a sweep: its folder, or its name in outputs", **KEYS},
        [
            ("tail outputs/NAME", "its lines as they come; Ctrl-C leaves it alone; exit code 1 if it failed"),
            ("tail outputs/SWEEP follow=false", "a line for each job, once"),
        ],
        "tail",
    ),
    "compare": Verb(
        "RUN|DIR ... [--sort COLUMN] [--markdown|--csv] [--json FILE] [--html FILE]",
        "settings that differ between runs, beside their metrics",
        {
            "RUN|DIR ...": "runs, or folders with runs in them: two runs or more",
            "--sort COLUMN": "order by a column: --sort='valid ppl'; default: the best on valid first",
            "--markdown": "print a table in Markdown; default: one that fits the terminal",
            "--csv": "the same with commas between; default: a table",
            "--json FILE": "keep the comparison in FILE, too; default: print it only",
            "--html FILE": "write a page with curves, samples and confidences, which loads nothing; default: none",
        },
        [
            ("compare outputs", "all runs: those that differ in the seed alone are one row"),
            ("compare outputs --html runs.html", "a page to look at, send and print"),
        ],
    ),
    "diff": Verb(
        "RUN RUN [--json]",
        "where two runs differ: configuration, data, versions, and the first step at which their numbers part",
        {
            "RUN ...": "two runs: their folders, or their names in outputs",
            "--json": "print the differences as JSON; default: tables",
        },
        [("diff outputs/ONE outputs/OTHER", "why do they not give the same numbers?")],
    ),
    "verify": Verb(
        "RUN ... [--json] [trust=[mylab.]]",
        "check that a run is whole, and can be resumed",
        {
            "RUN ...": "runs: their folders, or their names in outputs",
            "--json": "print the checks as JSON; default: a line for each",
            "trust=[mylab.]": "packages of yours that the run is built from; default: none",
        },
        [("verify outputs/NAME", "its files, checkpoints and data: exit code 0 if all is well, else 1")],
    ),
    "rm": Verb(
        "RUN ... | --status crashed [DIR] [--yes]",
        "delete runs, after asking",
        {
            "RUN ...": "runs: their folders, or their names in outputs",
            "--status crashed|failed|diverged|pruned|interrupted|damaged": "all of this status; default: those named",
            "DIR": "with --status, the folder that they are below; default: outputs",
            "--yes": "do not ask; default: ask",
        },
        [("rm outputs/NAME", "one run"), ("rm --status crashed", "all that were killed")],
    ),
    "bench": Verb(
        "[LEVEL ...] [key=value] [--json FILE] [--png FILE]",
        "time cells, engines and training steps",
        {
            "LEVEL ...": "what is timed, the same as the key levels: layer, step, product, reading, encoding, growth, "
            "ranks, neighbour, tune; default: layer step",
            **KEYS,
            "--json FILE": "keep the measurements in FILE, too; default: print them only",
            "--png FILE": "draw layer and growth (needs the extra `plots`); default: no picture",
        },
        [
            ("bench layer 'cells=[lstm, gru]' shapes=[35x20x650x650]", "two cells, one shape"),
            ("bench step --json bench.json", "whole training steps"),
        ],
        "bench",
    ),
    "reproduce": Verb(
        "RUN | experiment=NAME [key=value] [out=DIR]",
        "train a published setting, and compare it with the published figures",
        {
            "RUN": "a finished run of an experiment, which is scored and compared; instead of experiment=NAME",
            "experiment=NAME": "the setting that is trained first, and resumed if it was interrupted",
            "key=value": "a key of seqlm train that leaves the setting as it is: seed, data.path; default: its own",
            "out=DIR": "where the record is written; default: reproduced",
        },
        [("reproduce experiment=zaremba_small seed=2", "train, score, compare, keep a record")],
        "train",
    ),
    "doctor": Verb(
        "[--json]",
        "check this machine: versions, processor, compiler, cache, disk, a training step on each engine",
        {"--json": "print the findings as JSON; default: a table"},
        [("doctor", "some seconds; exit code 1 if something does not work")],
    ),
    "completion": Verb(
        "bash|zsh|fish",
        "print a script for tab completion",
        {"bash|zsh|fish": "the shell that reads it"},
        [
            ("completion bash >> ~/.bashrc", "bash"),
            ("completion zsh >> ~/.zshrc", "zsh, behind compinit"),
            ("completion fish > ~/.config/fish/completions/seqlm.fish", "fish"),
        ],
    ),
}  # fmt: skip
