"""The command line: `seqlm VERB ...`. A verb is an entry of VERBS and a file in commands/, imported when called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from . import __version__
from .commands.verbs import SYNONYMS, VERBS
from .errors import ConfigError, SeqlmError, broken_pipe, memory_advice, print_error
from .training.signals import Interrupted, LeaveOnSignal
from .training.torchrun import launched

HELP = ("-h", "--help", "help")
ENOUGH_MEMORY = "Close other programs, or use a machine with more memory"
SMALLER_TRAINING = "It needs less with a smaller train.batch_size, train.bptt, or model"
LESS_MEMORY = {
    "train": SMALLER_TRAINING,  # its loop knows the settings and says more
    "resume": SMALLER_TRAINING,
    "eval": "It needs less with batch_size=1, a smaller bptt (bptt=64), a smaller cache.size, or device=cpu",
    "sample": "It needs less with a shorter prompt, with average_last=null, or with device=cpu",
    "predict": "It needs less with batch_size=1, with shorter lines, or with device=cpu",
}
TOGETHER = ("train", "resume")  # verbs that several processes may be started for, by torchrun
OLD_VERBS = {"certify": "reproduce"}  # understood for one version


def main() -> None:
    """Run one verb; every error a user can cause ends in a few lines and its exit code."""
    _wait_politely()
    verb, *words = sys.argv[1:] or ["--help"]
    if verb in OLD_VERBS:
        print(f"seqlm: {verb} is called {OLD_VERBS[verb]} now", file=sys.stderr)
        verb = OLD_VERBS[verb]
    with exit_codes():
        place = launched()
        if place and verb not in TOGETHER and verb in VERBS:
            if place.rank:  # rank 0 says it
                sys.exit(ConfigError.exit_code)
            raise ConfigError(f"seqlm {verb} is for one process, not for {place.world_size}; start it without torchrun")
        if place and place.rank and set(HELP) & {verb, *words}:
            return
        if verb == "--version":
            print(f"seqlm {__version__}")
        elif verb in HELP or (verb in VERBS and set(HELP[:2]) & set(words)):
            from .commands.help import overview, verb_help

            print(overview() if verb in HELP else verb_help(verb, words))
        elif verb not in VERBS:
            near = [SYNONYMS[verb]] if verb in SYNONYMS else get_close_matches(verb, VERBS, 1)
            hint = f"did you mean seqlm {near[0]}? " if near else ""
            raise ConfigError(f"seqlm {verb} is unknown; {hint}verbs: {', '.join(VERBS)}")
        else:
            with LeaveOnSignal(), memory_advice(lambda: LESS_MEMORY.get(verb, ENOUGH_MEMORY)):
                importlib.import_module(f".commands.{verb}", __package__).main(words)


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process with a few lines and its exit code for every error that a user can cause."""
    try:
        yield
        sys.stdout.flush()  # here a full disk is an error like others
    except Interrupted as error:
        print(f"seqlm: stopped by {error}", file=sys.stderr)
        sys.exit(128 + error.number)
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
