"""The command line: `seqlm VERB ...`. The only file that imports hydra; torch is imported inside a verb only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from . import __version__
from .config import dotted, find_configs, resolve_layer_cells, typed, unknown_key
from .errors import ConfigError, SeqlmError, Stopped
from .schema import Config

Words = Sequence[str]


def train(words: Words) -> None:
    """compose a configuration from words and train it: seqlm train [group=option] [key=value] [-m]"""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    exit_codes = []

    def job(composed: DictConfig) -> float | None:
        runtime = HydraConfig.get().runtime
        values: Any = OmegaConf.to_container(composed, resolve=True)
        folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
        try:
            resolve_layer_cells(values["model"], folders)
            config = typed(Config, values)
            from .train import train as run

            return run(
                config, {group: choice for group, choice in runtime.choices.items() if choice and "hydra" not in group}
            )
        except BrokenPipeError:
            raise SystemExit(_reader_gone()) from None
        except (SeqlmError, OSError) as error:
            exit_codes.append(_tell(error))
            if isinstance(error, Stopped):
                sys.exit(exit_codes[-1])  # a signal ends a sweep, a failed run does not
            return None

    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come here, to be told in a few lines
    # Flags first, wherever they were typed: argparse takes the words it knows in one piece only.
    overrides = _overrides(words)
    sys.argv = ["seqlm train", *(word for word in words if word not in overrides), *overrides]
    try:
        hydra.main(config_path=str(find_configs()), config_name="train", version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(words, error)) from error
    if exit_codes:
        sys.exit(exit_codes[0])


def _overrides(words: Words) -> list[str]:
    """Those of the words that are not flags, or what follows one."""
    return [word for word in words if word.startswith("~") or ("=" in word and not word.startswith("-"))]


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


def certify(words: Words) -> None:
    """measure a published setting: seqlm certify RUN | experiment=NAME [key=value] [out=certificates]"""
    from .certify import certify as run
    from .certify import changes, finished

    out, words = _taken("out", words, "certificates")
    if words and "=" not in words[0] and not words[0].startswith("-"):
        folder, rest = Path(words[0]), words[1:]
        if rest:
            raise ConfigError(f"seqlm certify RUN takes no {rest[0]}: a run is certified as it is")
    else:
        name, own_words = _taken("experiment", words, "")
        if not name:
            raise ConfigError("seqlm certify needs a run's folder, or experiment=NAME to train it first")
        if changed := changes(preset(name, own_words), preset(name)):  # before it is trained
            raise ConfigError(
                f"seqlm certify measures experiment={name} as it is, but the words change {'; '.join(changed)}; leave "
                "them out, or use seqlm train"
            )
        engine, seed = (_taken(key, words, "")[0] for key in ("engine", "seed"))
        own = f"certify-{name}" + f"-{engine}" * bool(engine) + f"-seed{seed}" * bool(seed)
        run_name, words = _taken("run.name", words, own)
        root, words = _taken("run.root", words, "outputs")
        folder = Path(root) / run_name
        if not finished(folder):
            train([*words, f"run.name={run_name}", f"run.root={root}", "resume=auto"])
    run(folder, preset, Path(out))


def _taken(key: str, words: Words, default: str) -> tuple[str, Words]:
    """The value of `key=value` in the words, and the other words."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
    return (found or [default])[-1], [word for word in words if not word.startswith(f"{key}=")]


def preset(experiment: str, words: Words = ()) -> dict[str, Any]:
    """What `seqlm train experiment=NAME` composes, with nothing overridden but by `words`. Raises ConfigError."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    chosen = [] if experiment == "default" else [f"experiment={experiment}"]
    try:
        with initialize_config_dir(str(find_configs()), version_base="1.3"):
            composed = compose("train", [*chosen, *_overrides(words)])
        values: Any = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained([*chosen, *words], error)) from error
    resolve_layer_cells(values["model"], [find_configs()])
    return dict(values)


def sample(words: Words) -> None:
    """write text with a run: seqlm sample RUN [prompt=... tokens=200 temperature=0.8 top_k= top_p= seed=]"""
    folder, changes = _run_and_words("sample", words)
    from .sample import main as run

    run(folder, changes)


def predict(words: Words) -> None:
    """say something of each line of a file: seqlm predict RUN FILE|- [key=value]"""
    folder, rest = _run_and_words("predict", words)
    if not rest or "=" in rest[0]:
        raise ConfigError("seqlm predict needs a file after the run's folder, or - for standard input")
    from .predict import main as run

    run(folder, rest[0], rest[1:])


def runs(words: Words) -> None:
    """list runs, best first: seqlm runs [DIR]"""
    if len(words) > 1:
        raise ConfigError(f"seqlm runs takes one folder, not {len(words)}")
    from .runs import main as run

    run(*words)


def compare(words: Words) -> None:
    """what runs do differently, and what came of it: seqlm compare RUN|DIR ... [--json FILE]"""
    from .compare import main as run

    run(words)


def bench(words: Words) -> None:
    """time cells, engines and training steps: seqlm bench [key=value] [--json FILE] [--png FILE]"""
    from .bench import main as run

    run(words)


VERBS: dict[str, Callable[[Words], None]] = {
    "train": train,
    "resume": resume,
    "eval": evaluate,
    "sample": sample,
    "predict": predict,
    "runs": runs,
    "compare": compare,
    "bench": bench,
    "certify": certify,
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
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(_reader_gone())
    except (SeqlmError, OSError) as error:
        sys.exit(_tell(error))


def _tell(error: SeqlmError | OSError) -> int:
    """Print an error for the user; returns the exit code that belongs to it."""
    print(f"seqlm: {error}", file=sys.stderr, flush=True)
    return error.exit_code if isinstance(error, SeqlmError) else 1  # OSError: a full disk, a folder without permission


def _reader_gone() -> int:
    """Exit code for when nobody reads our output any more, as in `seqlm runs | head`; silences the rest of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


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
    """A composition error in our words: every key and choice that does not exist, else what hydra said."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import OmegaConf

    parsed = []
    for word in words:
        if "=" in word and not word.startswith("-"):
            try:
                parsed += OverridesParser.create().parse_overrides([word])
            except HydraException:
                return (
                    f"{word} cannot be read; write key=value without spaces around =, and quote a value with "
                    "spaces, commas, = or brackets: 'key=\"a, b\"'"
                )
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = sorted(set(error.options) - {"language_model", "sequence_model"})  # what presets are made of
        return f"{group}={choice} is unknown; allowed: {', '.join(options)}"
    groups = [item for item in parsed if (find_configs() / item.key_or_group.partition("@")[0]).is_dir()]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(find_configs()), version_base="1.3"):
            folders = ",".join(f"file://{Path(folder).resolve()}" for folder in _values_of("--config-dir", words))
            composed = compose("train", [*(str(item.input_line) for item in groups), f"hydra.searchpath=[{folders}]"])
    except HydraException:  # not a matter of keys
        return " ".join(str(error).split())
    known = dotted(cast("dict[str, Any]", OmegaConf.to_container(composed)))
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    problems = [
        unknown_key(item.key_or_group, known)
        for item in parsed
        if item not in groups and not item.is_add() and item.key_or_group not in {*known, *sections, "hydra"}
        and not item.key_or_group.startswith("hydra.")
    ]  # fmt: skip
    return "\n".join(problems) or " ".join(str(error).split("\n    full_key")[0].split())


def _values_of(flag: str, words: Words) -> list[str]:
    """What follows `flag` on the command line, in either form: `--flag value` or `--flag=value`."""
    after = [following for word, following in zip(words, words[1:], strict=False) if word == flag]
    return after + [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
