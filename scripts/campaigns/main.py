"""The command line of the campaigns."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .jobs import preload
from .runner import Campaign, Report, attack

NAMES = ("kill", "signals", "flip", "disk", "memory", "concurrency", "hostile", "fuzz", "soak", "portability")
PRINTED = 12  # failures of a campaign that are shown


def load(name: str) -> Campaign:
    """The campaign of this name."""
    campaign: Campaign = importlib.import_module(f"{__package__}.{name}").CAMPAIGN
    return campaign


def main(words: Sequence[str]) -> int:
    """Run the campaigns that `words` name; returns the exit code."""
    options = _parser().parse_args(words)
    names = [options.only] if options.only else NAMES
    preload()
    found = {}
    for name in names:
        campaign = load(name)
        if options.mutant:
            campaign.mutants[options.mutant]()
        numbers = range(campaign.sizes[options.size]) if options.case is None else [options.case]
        with tempfile.TemporaryDirectory(prefix="campaign-") as place:
            report = attack(campaign, numbers, seed=options.seed, workers=options.workers, place=Path(place))
        if options.size == "full" and options.case is None:
            check_reach(campaign, report)
        found[name] = report
        show(campaign, report, options.size)
    return int(any(report.failures for report in found.values()))


def check_reach(campaign: Campaign, report: Report) -> None:
    """What the full form must have seen, or it has not tried enough."""
    for what, least in campaign.least.items():
        if report.counts[what] < least:
            report.failures.append((-1, f"too little: {report.counts[what]} {what}, at least {least} are wanted"))


def show(campaign: Campaign, report: Report, size: str) -> None:
    """A line of counts, and how to repeat what failed."""
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(report.counts.items()))
    print(f"{campaign.name}: {counts}; {len(report.failures)} failures, "
          f"{report.seconds:.0f} s, {report.cpu_seconds:.0f} s of CPU", flush=True)  # fmt: skip
    for number, failure in report.failures[:PRINTED]:
        print(f"  {failure}\n    python scripts/campaign.py {size} --only {campaign.name} --case {number}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/campaign.py")
    parser.add_argument("size", nargs="?", choices=("short", "full"), default="short")
    parser.add_argument("--only", choices=NAMES, help="this campaign")
    parser.add_argument("--case", type=int, help="this case of it")
    parser.add_argument("--mutant", help="a broken product")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cases side by side")
    return parser
