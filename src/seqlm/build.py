"""One config node -> one object. The constructor is the schema.

A node is a mapping with `_target_`, the dotted name of a class or function, and its keyword arguments.
A node inside a node becomes a factory: the outer part calls it with what only it knows, such as sizes.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from .errors import ConfigError

# Code that a config may name. Only the command line can add to it (`trust=[mylab.]`), never a file.
TRUSTED = ("seqlm.", "torch.optim.")
YAML_TYPES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def build(node: Mapping[str, Any], where: str, *, trust: Sequence[str] = (), **runtime: Any) -> Any:
    """Build the object `node` describes, adding the `runtime` arguments that only the program knows.

    `where` is the node's place in the config (`model.cell`), used in messages. Raises ConfigError that
    lists every wrong, missing or mistyped argument at once.
    """
    problems = check(node, where, runtime=tuple(runtime), trust=trust)
    if problems:
        raise ConfigError("\n".join(problems))
    arguments = {key: _factories(value, f"{where}.{key}", trust) for key, value in _arguments(node).items()}
    try:
        return _target(node, where, trust)(**arguments, **runtime)
    except ValueError as error:
        # Our constructors start a message with the argument (`p=2 must be ...`), torch's with a sentence.
        joint = "." if re.match(r"[a-z_]+[.=]", str(error)) else ": "
        raise ConfigError(f"{where}{joint}{error}") from error


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
            near = difflib.get_close_matches(key, parameters, 1)
            settable = [name for name in parameters if name not in (runtime or ())]
            hint = f"did you mean {where}.{near[0]}?" if near else f"it has: {', '.join(settable)}"
            problems.append(f"{where}.{key} is not an argument of {name}; {hint}")
        elif key in hints and not fits(value, hints[key]):
            problems.append(f"{where}.{key}={value} should be {describe_type(hints[key])}")
        problems += _check_inside(value, f"{where}.{key}", trust)
    if runtime is not None:
        for key, parameter in parameters.items():
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            )
            if needed and key not in node and key not in runtime:
                problems.append(f"{where}.{key} is required by {name}")
    return problems


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "_target_"}


def _target(node: Mapping[str, Any], where: str, trust: Sequence[str]) -> Callable[..., Any]:
    path = str(node.get("_target_", ""))
    trusted = (*TRUSTED, *trust)
    if not path.startswith(trusted):
        raise ConfigError(
            f"{where}._target_={path or '(missing)'} is outside the trusted code ({', '.join(trusted)}); "
            "if it is yours, add trust=[yourpackage.] on the command line"
        )
    module, _, name = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{where}._target_={path} does not exist: {error}") from error
    if not callable(target):
        raise ConfigError(f"{where}._target_={path} is not a class or a function")
    # Defined there too, not only reachable from there: a module's own imports are its attributes.
    if not str(getattr(target, "__module__", "")).startswith(tuple(prefix.rstrip(".") for prefix in trusted)):
        raise ConfigError(f"{where}._target_={path} is defined outside the trusted code ({', '.join(trusted)})")
    return cast("Callable[..., Any]", target)


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
        return lambda **runtime: build(value, where, trust=trust, **runtime)
    if isinstance(value, Mapping):
        return {key: _factories(item, f"{where}.{key}", trust) for key, item in value.items()}
    if isinstance(value, list):
        return [_factories(item, f"{where}.{index}", trust) for index, item in enumerate(value)]
    return value


def _check_inside(value: Any, where: str, trust: Sequence[str]) -> list[str]:
    if _is_node(value):
        return check(value, where, runtime=None, trust=trust)
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return [problem for key, item in items for problem in _check_inside(item, f"{where}.{key}", trust)]


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain YAML value fits a type hint; True for hints a YAML value cannot be judged by."""
    origin = get_origin(hint)
    if hint is Any or _is_node(value):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin in (list, Sequence):
        return isinstance(value, list) and all(fits(item, get_args(hint)[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    return not inspect.isclass(hint) or isinstance(value, hint)


def describe_type(hint: Any) -> str:
    """A type hint in words a user knows."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        # Classes of libraries, such as a Tensor for lr, cannot be written in YAML.
        return " or ".join(
            describe_type(option) for option in get_args(hint) if option in YAML_TYPES or get_origin(option)
        )
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in get_args(hint))
    if origin is tuple:
        return "a list"
    return YAML_TYPES.get(hint) or ("a list" if origin in (list, Sequence) else "a mapping" if origin else str(hint))
