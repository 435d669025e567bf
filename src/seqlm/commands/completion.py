"""seqlm completion: scripts for tab completion, and the candidates that they ask for. Imports no torch.

At every TAB a script calls `seqlm completion SHELL LINE` with the line up to the cursor. Bash breaks words at = and :,
and replaces what is behind the last one only; the other shells replace whole words.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ..config.flags import values_of
from ..config.reference import Reference
from ..config.schema import PATH_KEYS
from ..errors import ConfigError
from ..runs.folder import OUTPUTS
from .help import keys_of
from .verbs import VERBS, Verb

# Each calls the command as it was typed, which may be a path.
SCRIPTS = {
    "bash": """\
_seqlm() {
    local found
    COMPREPLY=()
    while IFS= read -r found; do
        COMPREPLY+=("$found")
    done < <("${1/#\\~/$HOME}" completion bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -o nospace -F _seqlm seqlm
""",
    "zsh": """\
#compdef seqlm
_seqlm() {
    local -a found
    found=("${(@f)$("${words[1]/#\\~/$HOME}" completion zsh "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    compadd -Q -S '' -- ${found:#}
}
if [ "$funcstack[1]" = _seqlm ]; then _seqlm; else compdef _seqlm seqlm; fi
""",
    "fish": """\
function __seqlm_complete
    set -l program (string replace -r '^~' $HOME -- (commandline -opc)[1])
    $program completion fish (commandline -cp | string collect) 2>/dev/null
end
complete -c seqlm -f -a '(__seqlm_complete)'
""",
}


def main(words: Sequence[str]) -> None:
    """`seqlm completion bash|zsh|fish`: print the script, or what the word at the end of a line may become."""
    shell, *rest = words or [""]
    if shell not in SCRIPTS:
        raise ConfigError(f"seqlm completion needs a shell{f', not {shell}' * bool(shell)}: {', '.join(SCRIPTS)}")
    if not rest:
        print(SCRIPTS[shell], end="")
        return
    with suppress(ConfigError, OSError, ValueError):  # whatever is wrong with the line, TAB prints no error
        typed, last = split(rest[0])
        for found in candidates(typed[1:], last):
            end = "" if shell == "fish" or found.endswith(("=", "/", ".")) else " "
            kept = _kept(last, rest[-1]) if shell == "bash" else 0
            print((found if shell == "fish" else _escaped(found[kept:])) + end)


def split(line: str) -> tuple[list[str], str]:
    """The whole words of a line, and the one that is being typed, which may be empty; a quote may be open."""
    end = "\0"  # joins what is typed, or is a word of its own behind a space
    for closing in ("", "'", '"'):
        with suppress(ValueError):
            *words, last = shlex.split(line + end + closing)
            return words, last.removesuffix(end)
    raise ValueError(f"{line} cannot be split into words")


def candidates(words: Sequence[str], last: str) -> list[str]:
    """Every word that `last` is the beginning of, behind `seqlm` and the whole `words`."""
    if not words:
        return _beginning(last, [*VERBS, "--help", "--version"])
    verb, *given = words
    if verb not in VERBS:
        return []
    flags = _flags(VERBS[verb])
    if given and flags.get(given[-1]):  # the value of a flag
        return _places(flags[given[-1]], last)
    if last.startswith("-") or (not last and all(word.startswith("-") for word in VERBS[verb].words)):
        flag, equals, value = last.partition("=")
        if equals:
            return [f"{flag}={found}" for found in _places(flags.get(flag, ""), value)]
        return _beginning(last, [*flags, "--help"])
    reference = Reference(map(Path, values_of("--config-dir", given)))
    if "=" in last:
        return _values(verb, given, last, reference)
    return _places_or_keys(verb, given, last, reference)


def _places_or_keys(verb: str, given: Sequence[str], last: str, reference: Reference) -> list[str]:
    """The next word of the verb that is no key, such as RUN, and behind those that it needs, its groups and keys."""
    entry = VERBS[verb]
    places = [name for name in entry.words if "=" not in name and not name.startswith("-")]
    needed = 0 if " | " in entry.usage else sum(name in entry.usage.partition("[")[0] for name in places)
    there = sum("=" not in word and not word.startswith("-") for word in given)
    at = min([there, *(index for index, place in enumerate(places) if place.endswith(" ..."))])
    found = _places(places[at].removesuffix(" ..."), last) if at < len(places) else []
    if there < needed:
        return found
    named = [word.partition("=")[0] for word in entry.words if "=" in word]
    named = [name for name in named if name not in ("group", "key")] + [*reference.groups] * (entry.keys == "train")
    ends = [f"{name}=" for name in named]
    keys = [*keys_of(verb, given, reference).values(), *reference.verb_keys(entry.also).values()]
    ends += [f"{key.name}{'.' if key.value == '{}' else '='}" for key in keys if key.value]  # data={} takes data.path=
    bare = last.lstrip("+")
    # As far as the next dot: `train.` stands for its keys until it is typed.
    steps = dict.fromkeys("".join(name[len(bare) :].partition(".")[:2]) for name in _beginning(bare, ends))
    return found + [f"{last}{step}" for step in steps]


def _values(verb: str, given: Sequence[str], last: str, reference: Reference) -> list[str]:
    """Options of a group, or values of a key: files, those that its comment lists, or else its default."""
    key, _, value = last.partition("=")
    name = key.lstrip("+")
    if name in PATH_KEYS or name.startswith("paths.") or f"{name}=DIR" in VERBS[verb].words:
        return [f"{key}={path}" for path in (_runs(value) if name == "init_from" else _paths(value))]
    options = reference.groups.get(name, []) if VERBS[verb].keys == "train" else []
    known = (keys_of(verb, given, reference) | reference.verb_keys(VERBS[verb].also)).get(name)
    if known and not options:
        options = known.choices or [known.value] * (known.value not in ("", "null", "???"))
    before, comma, item = value.rpartition(",")  # values of several jobs, or of a list
    bracket = "[" * item.startswith("[")
    return [f"{key}={before}{comma}{bracket}{option}" for option in _beginning(item.removeprefix("["), options)]


def _flags(entry: Verb) -> dict[str, str]:
    """The flags of a verb, each with its value as the help names it; empty if it has none."""
    found: dict[str, str] = {}
    for name in entry.words:
        parts = name.replace(",", "").split()
        value = "".join(part for part in parts if not part.startswith("-"))
        found |= {part: value for part in parts if part.startswith("-")}
    return {flag: value for flag, value in found.items() if flag != "-"}


def _places(place: str, last: str) -> list[str]:
    """Candidates for a word as the help names it, NAME being that of a sweep; in `a|b` what is typed as it stands."""
    found: list[str] = []
    for name in place.split("|"):
        if name == "RUN":
            found += _runs(last)
        elif name in ("NAME", "SWEEP"):
            found += _beginning(last, [path.parent.name for path in sorted(OUTPUTS.glob("*/.sweep"))])
        elif name in ("DIR", "FILE"):
            found += _paths(last, folders_only=name == "DIR")
        elif name == "LEVEL":
            found += _beginning(last, Reference().verb_keys("bench")["levels"].choices)
        elif not name.isupper():
            found += _beginning(last, [name])
    return list(dict.fromkeys(found))


def _runs(last: str) -> list[str]:
    """Runs, by their folder or by their name in outputs, and folders on the way to others."""
    start = f"{OUTPUTS}/" if not last and OUTPUTS.is_dir() else last
    paths = _paths(start, folders_only=True)
    named = [path for path in _paths(f"{OUTPUTS}/{last}", folders_only=True) if path not in paths]
    shown = [(path, path) for path in paths] + [(path, path.removeprefix(f"{OUTPUTS}/")) for path in named]
    return [text[:-1] if (Path(path).expanduser() / "run.json").is_file() else text for path, text in shown]


def _paths(last: str, folders_only: bool = False) -> list[str]:
    """Files and folders whose path begins so; folders end in /. Hidden ones only where their dot is typed."""
    folder, slash, name = last.rpartition("/")
    shown: list[str] = []
    with suppress(OSError), os.scandir(Path(f"{folder}{slash}" or ".").expanduser()) as entries:
        shown = [
            f"{folder}{slash}{entry.name}{'/' * entry.is_dir()}"
            for entry in entries
            if entry.name.startswith(name) and (name or not entry.name.startswith("."))
        ]
    return sorted(path for path in shown if path.endswith("/") or not folders_only)


def _beginning(last: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(last)]


def _escaped(text: str) -> str:
    """With backslashes where bash and zsh would read something else."""
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", text)


def _kept(last: str, breaks: str) -> int:
    """How many characters of the word that is typed bash leaves as they are."""
    return 1 + max((last.rfind(character) for character in "=:" if character in breaks), default=-1)
