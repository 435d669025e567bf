"""The command line: `seqlm VERB ...`. The only file that imports hydra; torch is imported inside a verb only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .config import Config, find_configs, plain_dict, resolve_layer_cells, typed, unknown_key
from .errors import ConfigError, SeqlmError
from .run import dotted

Words = Sequence[str]


def train(words: Words) -> None:
    """compose a configuration from words and train it: seqlm train [group=option] [key=value] [-m]"""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node=Config)

    def job(composed: DictConfig) -> float:
        runtime = HydraConfig.get().runtime
        values: Any = OmegaConf.to_container(composed, resolve=True)
        folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
        resolve_layer_cells(values["model"], folders)
        config = typed(Config, values)

        from .train import train as run

        return run(config, runtime.choices)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, to be told in a few lines
    sys.argv = ["seqlm train", *words]
    try:
        hydra.main(config_path=str(find_configs()), config_name="train", version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(words, error)) from error


def resume(words: Words) -> None:
    """go on with a run where it stopped: seqlm resume RUN [key=value]"""
    folder, changes = _run_and_words("resume", words)
    from .train import resume as run

    run(folder, changes)


def evaluate(words: Words) -> None:
    """score a split of a run's data: seqlm eval RUN [split=test batch_size=1] [--json]"""
    folder, changes = _run_and_words("eval", [word for word in words if word != "--json"])
    from .evaluate import main as run

    run(folder, changes, "--json" in words)


def sample(words: Words) -> None:
    """write text with a run: seqlm sample RUN [prompt=... tokens=200 temperature=0.8 top_k= top_p= seed=]"""
    folder, changes = _run_and_words("sample", words)
    from .sample import main as run

    run(folder, changes)


def runs(words: Words) -> None:
    """list runs, best first: seqlm runs [DIR]"""
    if len(words) > 1:
        raise ConfigError(f"seqlm runs takes one folder, not {len(words)}")
    from .runs import main as run

    run(*words)


VERBS: dict[str, Callable[[Words], None]] = {
    "train": train,
    "resume": resume,
    "eval": evaluate,
    "sample": sample,
    "runs": runs,
}


def main() -> None:
    """Run one verb; every error a user can cause ends in a few lines and an exit code that says what it was."""
    words = sys.argv[1:]
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(_overview())
        elif words[0] == "--version":
            print(f"seqlm {__version__}")
        elif words[0] not in VERBS:
            raise ConfigError(f"seqlm {words[0]} is unknown; verbs: {', '.join(VERBS)}")
        elif words[0] != "train" and {"-h", "--help"} & set(words):
            print(_verb_help(words[0]))
        else:
            VERBS[words[0]](words[1:])
    except SeqlmError as error:
        print(f"seqlm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, as in `seqlm runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _overview() -> str:
    lines = [f"  {name:<8} {verb.__doc__}" for name, verb in VERBS.items()]
    return "\n".join(
        ["seqlm trains recurrent language models.", "", *lines, "", "seqlm VERB --help tells the keys of a verb."]
    )


def _verb_help(verb: str) -> str:
    """The verb's sentence, and the YAML of its keys, whose comments explain them."""
    keys = find_configs() / f"{verb}.yaml"
    return f"{VERBS[verb].__doc__}\n" + (f"\n{keys.read_text(encoding='utf-8')}" if keys.is_file() else "")


def _run_and_words(verb: str, words: Words) -> tuple[str, Words]:
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise ConfigError(f"seqlm {verb} needs a run folder first: seqlm {verb} outputs/NAME; `seqlm runs` lists them")
    return words[0], words[1:]


def _explained(words: Words, error: Exception) -> str:
    """A composition error in our words: every key that does not exist, else what hydra said."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        parsed = OverridesParser.create().parse_overrides([word for word in words if "=" in word and not word.startswith("-")])
    except HydraException as parse_error:
        return f"{str(parse_error).splitlines()[0]}; quote values with spaces or brackets, as in 'key=\"a b\"'"
    groups = find_configs()
    choices = [item for item in parsed if (groups / item.key_or_group.partition("@")[0]).is_dir()]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(groups), version_base="1.3"):
            composed = compose("train", [item.input_line for item in choices if item.input_line])
    except HydraException as choice_error:
        return " ".join(line.strip() for line in str(choice_error).splitlines() if line.strip() and "Check that" not in line)
    known = dotted(plain_dict(OmegaConf.to_container(composed)))
    problems = [
        unknown_key(item.key_or_group, known)
        for item in parsed
        if item not in choices
        and not item.is_add()
        and item.key_or_group not in known
        and not any(key.startswith(f"{item.key_or_group}.") for key in known)
        and not item.key_or_group.startswith("hydra")
    ]
    return "\n".join(problems) or " ".join(str(error).split("\n    full_key")[0].split())
