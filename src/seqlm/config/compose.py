"""From words of a command line to a configuration: the only file that imports hydra."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError
from .keys import dotted
from .schema import PATH_KEYS, Config
from .values import typed, unknown_key
from .yaml_files import find_configs, resolve_layer_cells

Words = Sequence[str]
Choices = dict[str, str]  # the option taken of each config group, {"model": "lstm"}
Job = Callable[[Callable[[], Config], Choices, list[str]], float | None]
# Values that are left to hydra's grammar: quoted, composite, interpolated, or a function of it.
GRAMMAR = re.compile(r"""['"\[{$]|(null|\?\?\?)$|(choice|range|interval|glob|sort|shuffle)\(""")
WORDS_OF_YAML = re.compile(r"(?i)null|true|false|nan|inf")
BASE_PRESETS = {"language_model", "sequence_model"}  # presets are made of these, which are none themselves


def compose_words(words: Words = ()) -> tuple[Config, Choices]:
    """The configuration that `seqlm train WORDS` trains, and the option taken of each group. Raises ConfigError."""
    values, choices = _compose(overrides(words))
    return typed_config(values, [find_configs()]), choices


def experiment(name: str, words: Words = ()) -> dict[str, Any]:
    """The values that `seqlm train experiment=NAME` composes; `default` is no experiment. Raises ConfigError."""
    values, _ = _compose([*([] if name == "default" else [f"experiment={name}"]), *overrides(words)])
    resolve_layer_cells(values["model"], [find_configs()])
    return values


def words_of(config: Mapping[str, Any]) -> list[str]:
    """Words of a command line that set the keys of a mapping, which may be dotted or nested by section."""
    words = []
    for key, value in config.items():
        if isinstance(value, Mapping) and "." not in key:
            words += [f"{key}.{inner}={_as_word(item)}" for inner, item in value.items()]
        else:
            words.append(f"{key}={_as_word(value)}")
    return words


def typed_config(values: dict[str, Any], folders: Sequence[Path]) -> Config:
    """Composed values as a Config; cells that layers name are looked up in `folders`. Raises ConfigError."""
    resolve_layer_cells(values["model"], folders)
    return typed(Config, values)


def run_jobs(words: Words, job: Job) -> None:
    """Call `job(make, choices, typed)` for the configuration of `words`, or for each of a multirun (-m).

    `make` checks it, and `typed` are the words of this job. Raises ConfigError if they cannot be composed.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def run(node: DictConfig) -> float | None:
        runtime, typed_words = HydraConfig.get().runtime, HydraConfig.get().overrides.task
        values: Any = OmegaConf.to_container(node, resolve=True)
        del values["paths"]  # which the data has read
        folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
        return job(lambda: typed_config(values, folders), _taken(runtime.choices), list(typed_words))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come here, to be printed in a few lines
    # Flags first, wherever they were typed: argparse takes the words it knows in one piece only.
    keys = overrides(words)
    sys.argv = ["seqlm train", *(word for word in words if word not in keys), *quoted_paths(words)]
    try:
        hydra.main(config_path=str(find_configs()), config_name="train", version_base="1.3")(run)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(words, error)) from error


def overrides(words: Words) -> list[str]:
    """Those of the words that are not flags, or what follows one."""
    return [word for word in words if word.startswith("~") or ("=" in word and not word.startswith("-"))]


def quoted_paths(words: Words) -> list[str]:
    """The overrides, paths in quotes and ~ expanded: to hydra a plain é, & or ( is an error, and 1984 a number."""
    several = "-m" in words or "--multirun" in words  # then commas separate jobs
    found = []
    for word in overrides(words):
        key, _, value = word.partition("=")
        is_path = key.lstrip("+") in PATH_KEYS or key.lstrip("+").startswith("paths.")
        if is_path and value and not GRAMMAR.match(value):
            paths = value.split(",") if several else [value]
            word = f"{key}=" + ",".join(_quoted(os.path.expanduser(path)) for path in paths)
        found.append(word)
    return found


def explain(words: Words, error: Exception) -> str:
    """The message for a composition error: every key and choice that does not exist, else the message of hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, MissingConfigException

    parsed = []
    for word in quoted_paths(words):
        if "=" in word:
            try:
                parsed += OverridesParser.create().parse_overrides([word])
            except HydraException:
                return (
                    f"{word} cannot be read; write key=value without spaces around =, and quote a value with "
                    "spaces, commas, = or brackets: 'key=\"a, b\"'"
                )
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice} is unknown; allowed: {', '.join(sorted(set(error.options) - BASE_PRESETS))}"
    groups = [item for item in parsed if (find_configs() / item.key_or_group.partition("@")[0]).is_dir()]
    folders = ",".join(f"file://{Path(folder).resolve()}" for folder in _values_of("--config-dir", words))
    try:
        known = dotted(
            _composed([*(str(item.input_line) for item in groups), f"hydra.searchpath=[{folders}]"], False)[0]
        )
    except HydraException:  # not a matter of keys
        return " ".join(str(error).split())
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    problems = [
        unknown_key(item.key_or_group, known)
        for item in parsed
        if item not in groups and not item.is_add() and item.key_or_group not in {*known, *sections, "hydra"}
        and not item.key_or_group.startswith("hydra.")
    ]  # fmt: skip
    return "\n".join(problems) or " ".join(str(error).split("\n    full_key")[0].split())


def _compose(words: Words) -> tuple[dict[str, Any], Choices]:
    """Composed values, not checked yet, and choices; raises ConfigError that explains the errors of hydra."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        values, choices = _composed(quoted_paths(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(words, error)) from error
    del values["paths"]  # which the data has read
    return values, choices


def _composed(words: Words, resolve: bool = True) -> tuple[dict[str, Any], Choices]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf, open_dict

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(find_configs()), version_base="1.3"):
        node = compose("train", list(words), return_hydra_config=True)
    with open_dict(node):
        choices = _taken(node.pop("hydra").runtime.choices)
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=resolve)), choices


def _taken(choices: Mapping[str, Any]) -> Choices:
    """The options taken of our config groups."""
    return {group: choice for group, choice in choices.items() if choice and not group.startswith(("hydra", "local"))}


def _as_word(value: Any) -> str:
    """A plain value in hydra's grammar of overrides."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_as_word(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_as_word, value)) + "]"
    if isinstance(value, (str, Path)):
        plain = re.fullmatch(r"[A-Za-z_][\w/.-]*", str(value), re.ASCII) and not WORDS_OF_YAML.fullmatch(str(value))
        return str(value) if plain else _quoted(str(value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _quoted(text: str) -> str:
    """A text in hydra's grammar of overrides, where backslashes count only in front of a quote."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + (found[2] and "\\'"), text)
    return f"'{escaped}'"


def _values_of(flag: str, words: Words) -> list[str]:
    """Values of `flag` on the command line, in either form: `--flag value` or `--flag=value`."""
    after = [following for word, following in zip(words, words[1:], strict=False) if word == flag]
    return after + [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
