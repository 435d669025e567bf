"""Words of `seqlm train` that hydra would misread or ignore, refused with what to use instead. Imports no hydra."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import several
from .reference import Reference
from .suggest import not_key_value, unknown_flag, value_behind

ANY = ("",)
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# Flags that hydra is given, with the values that they take; none for a flag that is on or off.
FLAGS: Mapping[str, Sequence[str]] = {
    "--multirun": (), "--run": (), "--cfg": ("job", "hydra", "all"), "--resolve": (), "--package": ANY, "--info": INFO,
    "--config-dir": ANY, "--hydra-help": (),
}  # fmt: skip
SHORT = {
    "-m": "--multirun", "-r": "--run", "-c": "--cfg", "-p": "--package", "-i": "--info", "-cd": "--config-dir",
    "-cp": "--config-path", "-cn": "--config-name", "-sc": "--shell-completion",
}  # fmt: skip
REFUSED = {
    "--config-path": "use --config-dir DIR, whose files are read beside those of seqlm",
    "--config-name": "the configuration is train.yaml; put yours into an experiment: --config-dir DIR experiment=NAME",
    "--shell-completion": "tab completion is `seqlm completion bash|zsh|fish`",
    "--experimental-rerun": "use `seqlm resume RUN`, or the words in its run.json again",
}
# Keys of hydra that would change nothing: seqlm writes its own run folder, stays where it was started, and prints.
IGNORED = {
    "hydra.run": "a run is written to run.root/run.name; use run.root=DIR run.name=NAME",
    "hydra.output_subdir": "the composed configuration is config.yaml in the folder of the run; --cfg job prints it",
    "hydra.job.chdir": "seqlm stays in the folder it is started in; run.root=DIR says where runs are written",
    "hydra.verbose": "seqlm prints and does not log; --info and --cfg all show what hydra does",
    "hydra.help": "seqlm train --help is made from the comments of the YAML files",
}
ALONE = ("--multirun", "--run", "--cfg", "--info")  # one of them at a time


def is_multirun(words: Sequence[str]) -> bool:
    """Whether commas separate values of several jobs."""
    return "-m" in words or "--multirun" in words


def values_of(flag: str, words: Sequence[str]) -> list[str]:
    """Values of `flag` on the command line, in each form: `--flag value`, `--flag=value`, and its short name."""
    names = [flag, *(short for short, name in SHORT.items() if name == flag)]
    after = [following for word, following in zip(words, words[1:], strict=False) if word in names]
    return after + [word.partition("=")[2] for word in words if word.partition("=")[0] in names and "=" in word]


def check_words(words: Sequence[str], own: Iterable[str] = ()) -> None:
    """Raise ConfigError for every word that is no flag, group or key with a value, or that would change nothing.

    `own` are keys of the verb that are none of the configuration.
    """
    given, problems, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            name = SHORT.get(name, name)
            allowed = FLAGS.get(name, ())
            if not equals and allowed and rest and (name != "--info" or rest[0] in INFO):  # whose value is optional
                equals, value = "=", rest.pop(0)
            if name not in {*FLAGS, *REFUSED} and not equals:
                value = value_behind(rest)  # --lr 0.1
            given.append(name)
            problems += _flag_problem(name, equals, value, allowed, own)
        else:
            problems += _word_problem(word)
    if len(together := [flag for flag in ALONE if flag in given]) > 1:
        advice = "leave out -m, and give one value for each key" if "--cfg" in together else "leave one of them out"
        problems.append(f"{' and '.join(together)} do not go together; {advice}")
    folders = values_of("--config-dir", words)
    problems += [f"--config-dir={folder} is not a folder" for folder in folders if not Path(folder).is_dir()]
    problems += [
        f"{flag} needs --cfg job" for flag in ("--resolve", "--package") if flag in given and "--cfg" not in given
    ]
    if problems:
        raise several(problems)


def _flag_problem(name: str, equals: str, value: str, allowed: Sequence[str], own: Iterable[str]) -> list[str]:
    if name in REFUSED:
        return [f"{name} is not for seqlm: {REFUSED[name]}"]
    if name not in FLAGS:
        reference = Reference()
        return [unknown_flag(name, value, [*own, *reference.keys()], reference.groups, FLAGS, "train")]
    if equals and not allowed:
        return [f"{name}={value} takes no value; use {name}"]
    if allowed and not value and name != "--info":
        return [f"{name} needs a value" + f": {', '.join(allowed)}" * (allowed != ANY)]
    if value and allowed != ANY and value not in allowed:
        return [f"{name}={value} is unknown; allowed: {', '.join(allowed)}"]
    return []


def _word_problem(word: str) -> list[str]:
    key, equals, _ = word.partition("=")
    if word.startswith("~") and not equals:
        key, equals = word, "="
    bare = key.lstrip("+~")
    if not equals or not bare:
        return [not_key_value(word, Reference().groups, "write group=option or key=value, without spaces around =")]
    return [
        f"{bare} changes nothing: {advice}"
        for name, advice in IGNORED.items()
        if bare == name or bare.startswith(f"{name}.")
    ]
