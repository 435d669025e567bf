"""From a config node to an object. The constructor is the schema.

A node is a mapping with `_target_`, the dotted name of a class or function, and its keyword arguments.
A node inside a node becomes a factory: the outer part calls it with what only it knows, such as sizes.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from ..errors import ConfigError, several
from .migrate import renamed

# A config may name the public classes and `build_` functions that these packages define, nothing they import or call.
# Only the command line can add to it (`trust=[mylab.]`), never a file.
PARTS = (
    "seqlm.cells.", "seqlm.data.sources.", "seqlm.data.tokenizers.", "seqlm.layers.", "seqlm.models.", "seqlm.optim.",
    "seqlm.tasks.", "seqlm.training.loggers.", "seqlm.training.profile.", "torch.optim.",
)  # fmt: skip
YAML_TYPES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def build(node: Mapping[str, Any], where: str, *, trust: Sequence[str] = (), **runtime: Any) -> Any:
    """Build the object `node` describes, adding the `runtime` arguments that only the program knows.

    `where` is the node's place in the config (`model.cell`), used in messages. Raises ConfigError that
    lists every wrong, missing or mistyped argument at once.
    """
    problems = check(node, where, runtime=tuple(runtime), trust=trust)
    if problems:
        raise several(problems)
    arguments = {key: _factories(value, f"{where}.{key}", trust) for key, value in _arguments(node).items()}
    try:
        return _target(node, where, trust)(**arguments, **runtime)
    except ValueError as error:
        # Our constructors start a message with the argument (`p=2 must be ...`), torch's with a sentence.
        joint = "." if re.match(r"[a-z_]+[.=]", str(error)) else ": "
        raise ConfigError(f"{where}{joint}{error}") from error


def named_class(node: Mapping[str, Any], where: str, *, trust: Sequence[str] = ()) -> Any:
    """The class or function that `node` names. Raises ConfigError if that is none of the trusted code."""
    return _target(node, where, trust)


def accepts(node: Mapping[str, Any], where: str, argument: str, *, trust: Sequence[str] = ()) -> bool:
    """Whether what `node` names takes an argument of this name."""
    return argument in _parameters(_target(node, where, trust))


def defaults(node: Mapping[str, Any], where: str, *, trust: Sequence[str] = ()) -> dict[str, Any]:
    """The values that what `node` names gives to the arguments it is not given."""
    parameters = _parameters(_target(node, where, trust)).values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def check(
    node: Mapping[str, Any], where: str, *, runtime: Sequence[str] | None = (), trust: Sequence[str] = ()
) -> list[str]:
    """Everything wrong with `node`, one line each, without building it.

    `runtime` names the arguments the program will add; None means not known yet (a factory), so that
    missing arguments cannot be told.
    """
    try:
        target = _target(node, where, trust)
    except ConfigError as error:
        return [str(error)]
    name, parameters, hints = target.__name__, _parameters(target), _hints(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    problems = []
    for key, value in _arguments(node).items():
        if runtime and key in runtime:
            problems.append(f"{where}.{key} is set by the program, not by the config")
        elif key not in parameters and not open_ended:
            settable = [name for name in parameters if name not in (runtime or ())]
            today = renamed(f"{where}.{key}")
            why = f"now {today}" if today else f"not an argument of {name}; {_nearest(key, settable, where)}"
            problems.append(f"{where}.{key} is {why}")
        else:
            problems += _mismatches(value, hints.get(key, object), f"{where}.{key}", trust)
    if runtime is not None:
        for key, parameter in parameters.items():
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
            if needed and key not in node and key not in runtime:
                problems.append(f"{where}.{key} is required by {name}")
    return problems


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain YAML value fits a type hint; True if the hint cannot be checked."""
    return not _mismatches(value, hint, "", ())


def mismatches(value: Any, hint: Any, where: str) -> list[str]:
    """Every place in a plain YAML value, the key `where`, at which it does not fit a type hint; a line each."""
    return _mismatches(value, hint, where, ())


def describe_type(hint: Any) -> str:
    """A type hint in words a user knows."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        # Classes of libraries, such as a Tensor for lr, cannot be written in YAML.
        return " or ".join(
            describe_type(option)
            for option in get_args(hint)
            if option in YAML_TYPES or get_origin(option) or is_typeddict(option)
        )
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    if origin in (list, tuple, Sequence):
        return "a list"
    return YAML_TYPES.get(hint) or "a mapping"


def _mismatches(value: Any, hint: Any, where: str, trust: Sequence[str]) -> list[str]:
    """Every place in `value`, however deep, where it does not fit `hint`."""
    if hint is Any:
        return []
    if _is_node(value):
        return check(value, where, runtime=None, trust=trust)
    origin, options = get_origin(hint), get_args(hint)
    wrong = [f"{where}={value} should be {describe_type(hint)}"]
    if origin in (Union, types.UnionType):
        found = [_mismatches(value, option, where, trust) for option in options]
        inside = [problems for problems in found if problems and not problems[0].startswith(f"{where}=")]
        return [] if [] in found else inside[0] if inside else wrong
    if origin is Callable:  # filled by a node, which a group choice brings
        group = where.replace(".", "/")
        return [f"{where}={value} is not a part; choose one with {group}={value}"]
    if origin is Literal:
        return [] if value in options else wrong
    if is_typeddict(hint):
        return _mapping_mismatches(value, hint, where, trust) if isinstance(value, Mapping) else wrong
    if origin in (list, Sequence) and isinstance(value, list):
        items = enumerate(value)
        return [
            problem for index, item in items for problem in _mismatches(item, options[0], f"{where}.{index}", trust)
        ]
    if origin is tuple and isinstance(value, list):
        right = options[-1] is Ellipsis or (len(options) == len(value) and all(map(fits, value, options)))
        return [] if right else [f"{where}={value} should be a list of {len(options)} numbers"]
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return wrong
        item_hint = options[1] if options else Any
        return [one for key, item in value.items() for one in _mismatches(item, item_hint, f"{where}.{key}", trust)]
    if hint is int or hint is float:
        kinds = (int, float) if hint is float else (int,)
        return [] if isinstance(value, kinds) and not isinstance(value, bool) else wrong
    if origin is None and inspect.isclass(hint):
        return [] if isinstance(value, hint) else wrong
    return [] if origin is None else wrong


def _mapping_mismatches(value: Mapping[str, Any], hint: Any, where: str, trust: Sequence[str]) -> list[str]:
    known, problems = get_type_hints(hint), []
    for key, item in value.items():
        if key in known:
            problems += _mismatches(item, known[key], f"{where}.{key}", trust)
        else:
            today = renamed(f"{where}.{key}")
            problems.append(
                f"{where}.{key} is {f'now {today}' if today else f'unknown; {_nearest(key, known, where)}'}"
            )
    return problems


def _nearest(key: str, known: Iterable[str], where: str) -> str:
    near = difflib.get_close_matches(key, list(known), 1)
    return f"did you mean {where}.{near[0]}?" if near else f"there are: {', '.join(known)}"


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "_target_"}


def _target(node: Mapping[str, Any], where: str, trust: Sequence[str]) -> Callable[..., Any]:
    path = str(node.get("_target_", ""))
    module_name, _, name = path.rpartition(".")
    ours = path.startswith(PARTS)
    if not ours and not path.startswith(tuple(trust)):
        raise ConfigError(
            f"{where}._target_={path or '(missing)'} is outside the trusted code ({', '.join((*PARTS, *trust))}); "
            "if it is yours, add trust=[yourpackage.] on the command line"
        )
    try:
        module = importlib.import_module(module_name)
        target = getattr(module, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}._target_={path} does not exist: {error}; is its folder on PYTHONPATH?") from error
    except Exception as error:  # in code of the user's
        raise ConfigError(f"{where}._target_={path}: {module_name} fails, {type(error).__name__}: {error}") from error
    if inspect.isabstract(target):
        lacking = ", ".join(sorted(target.__abstractmethods__))
        raise ConfigError(f"{where}._target_={path} is not finished: it has no {lacking}")
    if ours and not _is_part(target, module_name, name):
        raise ConfigError(f"{where}._target_={path} is not a public part of {module_name}")
    if not callable(target):
        raise ConfigError(f"{where}._target_={path} is not a class or a function")
    return cast("Callable[..., Any]", target)


def _is_part(target: Any, module_name: str, name: str) -> bool:
    """Whether a module of the trusted packages defines `target` for configs to name."""
    if module_name == "torch.optim":  # which collects its optimizers from submodules
        return inspect.isclass(target) and not name.startswith("_") and target.__module__.startswith("torch.optim.")
    public = inspect.isclass(target) and not name.startswith("_")
    return (public or name.startswith("build_")) and target.__module__ == module_name


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(target).parameters)
    except ValueError:  # written in C: it will check its arguments itself
        return {"arguments": inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)}


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # a third-party signature we cannot resolve: its constructor will check
        return {}


def _factories(value: Any, where: str, trust: Sequence[str]) -> Any:
    """Replace every node inside `value` by a function that builds it."""
    if _is_node(value):

        def make(**runtime: Any) -> Any:
            return build(value, where, trust=trust, **runtime)

        # Who calls it may ask what it takes.
        make.__signature__ = inspect.Signature(list(_parameters(_target(value, where, trust)).values()))  # type: ignore[attr-defined]
        return make
    if isinstance(value, Mapping):
        return {key: _factories(item, f"{where}.{key}", trust) for key, item in value.items()}
    if isinstance(value, list):
        return [_factories(item, f"{where}.{index}", trust) for index, item in enumerate(value)]
    return value
