"""The command line: `seqlm VERB ...`. A verb is an entry of VERBS and a file in commands/, imported when called."""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches

from . import __version__
from .commands.verbs import VERBS
from .errors import ConfigError, SeqlmError, broken_pipe, print_error

HELP = ("-h", "--help", "help")
OLD_VERBS = {"certify": "reproduce"}  # understood for one version


def main() -> None:
    """Run one verb; every error a user can cause ends in a few lines and its exit code."""
    _wait_politely()
    verb, *words = sys.argv[1:] or ["--help"]
    if verb in OLD_VERBS:
        print(f"seqlm: {verb} is called {OLD_VERBS[verb]} now", file=sys.stderr)
        verb = OLD_VERBS[verb]
    try:
        if verb == "--version":
            print(f"seqlm {__version__}")
        elif verb in HELP or (verb in VERBS and set(HELP[:2]) & set(words)):
            from .commands.help import overview, verb_help

            print(overview() if verb in HELP else verb_help(verb, words))
        elif verb not in VERBS:
            near = get_close_matches(verb, VERBS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"seqlm {verb} is unknown; {hint}verbs: {', '.join(VERBS)}")
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
