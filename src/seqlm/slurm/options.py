"""The words `slurm=true slurm.time=...` of a command line, and the options of sbatch that they become."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..config.values import verb_config
from ..config.verb_schema import SlurmConfig, SlurmKeys
from ..errors import ConfigError, several
from ..files import file_stem

WORD = r"[\w.,:+@%/*&|()\[\]=-]+"  # of an option that is one word; no quotes, no spaces, nothing that a shell reads
TIME = r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|(?i:infinite|unlimited)"
FORMS = {"time": (TIME, "2:30:00, 3-12:00:00 or minutes"), "mem": (r"\d+[KMGT]?B?", "16G")}
EXTRA = re.compile(r"--([a-z][a-z0-9-]*)(?:=(.+))?")
# Options that what is written here rests on.
OURS = {
    "array", "chdir", "error", "nodes", "ntasks", "no-requeue", "open-mode", "output", "parsable", "requeue", "signal",
    "test-only", "wrap",
}  # fmt: skip
GPUS = {
    "gpus",
    "gpus-per-node",
    "gpus-per-task",
    "gres",
}  # ways to ask for GPUs: one of them in `extra` replaces ours

Options = dict[str, str | None]


def slurm_words(words: Sequence[str]) -> tuple[SlurmConfig | None, list[str], bool]:
    """The keys of `slurm=true`, None without it; the other words; and whether `--print` was among them.

    Raises ConfigError.
    """
    own = [word for word in words if word.partition("=")[0].partition(".")[0] == "slurm" or word == "--print"]
    rest, keys = [word for word in words if word not in own], [word for word in own if word.startswith("slurm.")]
    switches = [word.partition("=")[2] for word in own if word.startswith("slurm=")] + ["false"]
    if switches[0] not in ("true", "false"):
        raise ConfigError(f"slurm={switches[0]} should be true or false")
    if switches[0] == "false":
        if given := [word for word in own if not word.startswith("slurm=")]:
            raise ConfigError(f"{given[0]} is for jobs of SLURM: give slurm=true too, or leave it out")
        return None, rest, False
    config = verb_config("slurm", SlurmKeys, keys).slurm
    if problems := [*_problems(config)]:
        raise several(problems)
    return config, rest, "--print" in own


def sbatch_options(config: SlurmConfig, name: str, log: Path, tasks: int | None = None) -> Options:
    """The options of sbatch by name, without their dashes; None for one that has no value.

    `log` is the file that a job's output goes to, with sbatch's own patterns in its name; `tasks` those of an array.
    """
    options: Options = {"job-name": file_stem(name)}
    if tasks is not None:
        options["array"] = f"0-{tasks - 1}" + (f"%{config.parallel}" if config.parallel else "")
    options |= {
        "output": f"{str(log.parent.absolute()).replace('%', '%%')}/{log.name}",
        "open-mode": "append",
        "chdir": str(Path.cwd()),
        "requeue": None,
        "signal": f"B:USR1@{config.signal}",
        "nodes": "1",
        "ntasks": "1",
    }
    given = {
        "partition": config.partition, "account": config.account, "qos": config.qos, "time": config.time,
        "mem": config.mem, "cpus-per-task": config.cpus, "constraint": config.constraint,
        "gres": f"gpu:{config.gpus}" if config.gpus else None,
    }  # fmt: skip
    options |= {key: str(value) for key, value in given.items() if value is not None}
    extra: Options = {found[1]: found[2] for text in config.extra if (found := EXTRA.fullmatch(text))}
    if GPUS & extra.keys():
        options.pop("gres", None)
    return options | extra


def _problems(config: SlurmConfig) -> list[str]:
    """Every value that could be read as something else than it is: by sbatch, or by the shell."""
    found = []
    for key in ("partition", "account", "qos", "constraint", "time", "mem"):
        value = getattr(config, key)
        form, example = FORMS.get(key, (WORD, "one word"))
        if value is not None and not re.fullmatch(form, value, re.ASCII):
            found.append(f"slurm.{key}={_visible(value)} cannot be given to sbatch; write it as {example}")
    lists = {"setup": config.setup, "extra": config.extra, "python": [config.python or "python"]}
    for key, values in lists.items():
        if bad := [value for value in values if not value.strip() or not value.isprintable()]:
            found.append(f"slurm.{key}: {_visible(bad[0])} must be one line that can be printed")
    for text in config.extra:
        option = EXTRA.fullmatch(text)
        if option is None:
            found.append(
                f"slurm.extra: {_visible(text)} is no option; write --key=value or --key, as [--exclude=node7]"
            )
        elif option[1] in OURS:
            found.append(f"slurm.extra: --{option[1]} is written by seqlm itself; leave it out")
    return found


def _visible(text: str) -> str:
    return text if text.isprintable() and text else repr(text)
