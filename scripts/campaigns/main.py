"""The command line of the campaigns, what they print, and the record of a full one."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from .jobs import preload
from .runner import BROKEN, Campaign, Report, attack

NAMES = (
    "kill", "flip", "disk", "signals", "nonfinite", "memory", "hostile", "concurrency", "words", "fuzz", "soak",
    "portability",
)  # fmt: skip
BROKEN_MUTANT = 2  # exit code
PRINTED = 12  # failures of a campaign that are shown
RECORD = Path(__file__).resolve().parents[2] / "results" / "reliability.json"


def load(name: str) -> Campaign:
    """The campaign of this name."""
    campaign: Campaign = importlib.import_module(f"{__package__}.{name}").CAMPAIGN
    return campaign


def main(words: Sequence[str]) -> int:
    """Run the campaigns that `words` name; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(words)
    if (options.case is not None or options.mutant) and not options.only:
        parser.error("--case and --mutant are of one campaign: --only NAME")
    campaigns = [load(name) for name in ([options.only] if options.only else NAMES)]
    if options.mutant and options.mutant not in campaigns[0].mutants:
        parser.error(f"--mutant={options.mutant} is unknown; {options.only} has: {', '.join(campaigns[0].mutants)}")
    preload()
    if options.mutants:
        return int(any([_retry_mutants(campaign, options) for campaign in campaigns]))
    if options.mutant:
        _break(campaigns[0], options.mutant)
    reports, whole = {}, options.size == "full" and options.case is None and not options.mutant
    for campaign in campaigns:
        numbers = range(campaign.sizes[options.size]) if options.case is None else options.case
        with tempfile.TemporaryDirectory(prefix="campaign-") as place:
            report = attack(campaign, numbers, seed=options.seed, workers=options.workers, place=Path(place))
        if whole:
            _check_reach(campaign, report)
            _try_mutants(campaign, report, options)
        reports[campaign.name] = report
        _show(campaign, report, options.size)
        if whole:
            _record(campaign, report, options)
    return int(any(report.failures for report in reports.values()))


def _check_reach(campaign: Campaign, report: Report) -> None:
    """Fail a full form that has not tried enough to show something."""
    for what, least in campaign.least.items():
        if report.counts[what] < least:
            report.failures.append((None, f"too few: {report.counts[what]} {what}, at least {least} are wanted"))


def _try_mutants(campaign: Campaign, report: Report, options: argparse.Namespace) -> None:
    """The short form, or one large enough, against each broken product, in a process of its own: it must fail."""
    for name in campaign.mutants:
        pid = os.fork()
        if not pid:
            _break(campaign, name)
            with tempfile.TemporaryDirectory(prefix="campaign-") as place:
                numbers = range(campaign.sizes.get("mutant", campaign.sizes["short"]))
                found = attack(campaign, numbers, seed=options.seed, workers=options.workers, place=Path(place))
            os._exit(int(len(found.failures) > found.counts[BROKEN]))
        noticed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        report.mutants[name] = noticed
        if not noticed:
            report.failures.append((None, f"the mutant {name} was not noticed"))


def _retry_mutants(campaign: Campaign, options: argparse.Namespace) -> int:
    """The mutants alone, again: their part of the record is replaced. Returns how many were not noticed."""
    known = json.loads(RECORD.read_text(encoding="utf-8"))
    entry, report = known[campaign.name], Report()
    _try_mutants(campaign, report, options)
    _show(campaign, report, options.size)
    entry["failures"] += len(report.failures) - sum(not noticed for noticed in entry["mutants"].values())
    entry["mutants"] = report.mutants
    RECORD.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return len(report.failures)


def _break(campaign: Campaign, mutant: str) -> None:
    """Break the product in this process; the process ends if the product has no such place any more."""
    try:
        campaign.mutants[mutant]()
    except Exception:
        traceback.print_exc()
        os._exit(BROKEN_MUTANT)


def _show(campaign: Campaign, report: Report, size: str) -> None:
    """A line of counts, and how to repeat what failed."""
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(report.counts.items()))
    print(
        f"{campaign.name}: {counts or 'nothing counted'}; {len(report.failures)} failures, "
        f"{report.seconds:.0f} s, {report.cpu_seconds:.0f} s of CPU",
        flush=True,
    )
    for number, failure in report.failures[:PRINTED]:
        again = "" if number is None else f"\n    scripts/campaign.py {size} --only {campaign.name} --case {number}"
        print(f"  {failure}{again}", flush=True)


def _record(campaign: Campaign, report: Report, options: argparse.Namespace) -> None:
    """Replace what results/reliability.json says of a campaign: counts, no path and no text of a failure."""
    import torch

    import seqlm
    from seqlm.device import hardware

    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    known[campaign.name] = {
        "about": campaign.about,
        "cases": report.cases,
        "counts": dict(sorted(report.counts.items())),
        "wanted": dict(campaign.least),
        "failures": len(report.failures),
        "mutants": report.mutants,
        "seconds": round(report.seconds, 1),
        "cpu_seconds": round(report.cpu_seconds, 1),
        "workers": options.workers,
        "seed": options.seed,
        "seqlm": seqlm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "hardware": hardware(torch.device("cpu")),
    }
    ordered = {name: known[name] for name in NAMES if name in known}
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def _range(word: str) -> range:
    first, _, last = word.partition("-")
    return range(int(first), int(last or first) + 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/campaign.py")
    parser.add_argument("size", nargs="?", choices=("short", "full"), default="short")
    parser.add_argument("--only", choices=NAMES, help="this campaign")
    parser.add_argument("--case", type=_range, help="this case of it, as it was, or those of FIRST-LAST")
    parser.add_argument("--mutant", help="a broken product, which it must notice")
    parser.add_argument("--mutants", action="store_true", help="its mutants alone, again, for its record")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cases side by side")
    return parser
