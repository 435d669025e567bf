"""The command line: `seqlm VERB ...`. A verb is a line of VERBS and a file in commands/, imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys

from . import __version__
from .config.yaml_files import verb_files
from .errors import ConfigError, SeqlmError, broken_pipe, print_error

VERBS = {
    "train": "compose a configuration from words and train it: seqlm train [group=option] [key=value] [-m]",
    "resume": "resume a run from its newest checkpoint: seqlm resume RUN [key=value]",
    "eval": "score a split of a run's data: seqlm eval RUN [split=test batch_size=1] [--json]",
    "sample": "write text with a run: seqlm sample RUN [prompt=... tokens=200 temperature=0.8 top_k= top_p= seed=]",
    "predict": "run inference on each line of a file: seqlm predict RUN FILE|- [key=value]",
    "runs": "list runs, best first: seqlm runs [DIR] [--sort COLUMN] [--filter 'model=gru valid<90'] [--json|--csv]",
    "compare": "settings that differ between runs, beside their metrics: seqlm compare RUN|DIR ... [--sort COLUMN] "
    "[--markdown] [--json FILE]",
    "rm": "delete runs, after asking: seqlm rm RUN ... | --status crashed [DIR] [--yes]",
    "bench": "time cells, engines and training steps: seqlm bench [key=value] [--json FILE] [--png FILE]",
    "reproduce": "measure a published setting: seqlm reproduce RUN | experiment=NAME [key=value] [out=reproduced]",
}

OLD_VERBS = {"certify": "reproduce"}  # understood for one version


def main() -> None:
    """Run one verb; every error a user can cause ends in a few lines and its exit code."""
    _wait_politely()
    verb, *words = sys.argv[1:] or ["--help"]
    if verb in OLD_VERBS:
        print(f"seqlm: {verb} is called {OLD_VERBS[verb]} now", file=sys.stderr)
        verb = OLD_VERBS[verb]
    try:
        if verb in ("-h", "--help", "help"):
            print(_overview())
        elif verb == "--version":
            print(f"seqlm {__version__}")
        elif verb not in VERBS:
            raise ConfigError(f"seqlm {verb} is unknown; verbs: {', '.join(VERBS)}")
        elif verb != "train" and {"-h", "--help"} & set(words):
            print(_verb_help(verb))
        else:
            importlib.import_module(f".commands.{verb}", __package__).main(words)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(broken_pipe())
    except (SeqlmError, OSError) as error:
        sys.exit(print_error(error))


def _wait_politely() -> None:
    """Let OpenMP's threads sleep soon when they wait for each other, unless the user has said how they should wait.

    They spin by default, which beside another busy process burns the time that the one they wait for needs. This costs
    nothing on an idle machine (`seqlm bench neighbour`). GNU's OpenMP reads it when torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _overview() -> str:
    lines = [f"  {verb:<9} {sentence}" for verb, sentence in VERBS.items()]
    return "\n".join(
        ["seqlm trains recurrent language models.", "", *lines, "", "seqlm VERB --help lists the keys of a verb."]
    )


def _verb_help(verb: str) -> str:
    """The verb's sentence, and the YAML of its keys, whose comments explain them."""
    return "\n".join([VERBS[verb], *(f"\n{file.read_text(encoding='utf-8')}".rstrip() for file in verb_files(verb))])
