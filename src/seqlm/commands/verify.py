"""seqlm verify: check that runs are whole, and can be resumed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import ConfigError, SeqlmError
from ..files import to_json
from ..runs.checks import Check, check_run
from ..runs.folder import RunFolder
from ..terminal import paint, status
from .words import pop_flag, pop_value, refuse_flags


def main(words: Sequence[str]) -> None:
    """`seqlm verify RUN ... [--json] [trust=[mylab.]]`: a line for each check of each run.

    Nothing in a run is changed. Raises SeqlmError, exit code 1, if a check has failed.
    """
    words, as_json = pop_flag(words, "--json")
    trusted, words = pop_value("trust", words, "")
    refuse_flags("verify", words, "runs, --json and trust=[...]")
    if keys := [word for word in words if "=" in word]:
        raise ConfigError(f"{keys[0]} is no key of seqlm verify; it takes runs, --json and trust=[...]")
    if not words:
        raise ConfigError("seqlm verify needs a run: seqlm verify RUN ...; `seqlm runs` lists them")
    trust = [name.strip(" '\"") for name in trusted.strip("[]").split(",") if name.strip()]
    runs = [RunFolder.open(word) for word in words]
    failed, results = 0, []
    for run in runs:
        with status(f"checking {run.path}"):
            made = check_run(run, trust)
        failed += sum(not one.ok for one in made)
        results.append({"run": str(run.path), "checks": [one._asdict() for one in made]})
        if not as_json:
            print("\n".join([str(run.path), *map(_line, made)]), flush=True)
    if as_json:
        print(to_json(results, indent=1))
    if failed:
        raise SeqlmError(f"{failed} {'check has' if failed == 1 else 'checks have'} failed")


def _line(check: Check) -> str:
    """A check for people: ok or failed, its name, what was found; more lines stand below that."""
    verdict = paint(f"{'ok' if check.ok else 'failed':<6}", "green" if check.ok else "red", sys.stdout)
    first, *rest = check.found.splitlines() or [""]
    return "\n".join([f"  {verdict}  {check.name:<14} {first}", *(f"{'':<25}{line}" for line in rest)])
