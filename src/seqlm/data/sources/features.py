"""Vectors and sequences of them, with a target each: frames of a video, samples of sensors, DNA."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...errors import ConfigError
from ...files import MB, open_regular
from ..examples import Example
from ..reading import TextReader, split_blanks
from .split_examples import SplitExamples

TABLES = {  # of targets for the arrays of a folder
    "label": "labels.tsv",
    "tags": "tags.tsv",
    "target": "targets.tsv",
    "value": "values.tsv",
}
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
FREE = 256 * MB  # that the arrays of a .npz file may take, and beyond it
RATIO = 100  # times the size of the file: more was made to fill the memory


class ArrayFile:
    """The array of a .npy file, read whenever it is asked for: nothing of it is held, and no file stays open."""

    def __init__(self, path: Path) -> None:
        self.path, self.where = path, str(path)
        with _numpy_file(path, ".npy file of numbers"), open_regular(path) as handle:
            self.shape, self.dtype = _check_header(handle, os.fstat(handle.fileno()).st_size)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        with _numpy_file(self.path, ".npy file of numbers"), open_regular(self.path) as handle:
            _check_header(handle, os.fstat(handle.fileno()).st_size)
            handle.seek(0)
            return np.asarray(np.load(handle, allow_pickle=False), dtype=dtype)

    def __repr__(self) -> str:
        return f"{self.path.name} {self.shape}"


class PartOfFile:
    """An array that was read with others, and where it stood."""

    def __init__(self, array: NDArray[Any], where: str) -> None:
        self._array, self.where = array, where
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._array, dtype=dtype)

    def __repr__(self) -> str:
        return f"{self.where} {self.shape}"


class Features(SplitExamples):
    """Arrays (T, F) of numbers, with a label each, a tag for every step, a text, numbers, or several of these.

    `path` is a folder with train, valid and perhaps test, or one source, shared out by names or numbers of examples:
      a folder: NAME.npy (T, F) for each example, (1, F) for a single vector; labels.tsv with lines NAME, tabulator,
        label; tags.tsv, tags with spaces between; targets.tsv, texts; values.tsv, numbers with spaces between, nan for
        one that is missing, or values/NAME.npy (T, K), those of each step. Arrays are read when a batch needs them:
        memory need not hold all
      NAME.npz: features (N, T, F); lengths (N,) if some end before T; label (N,); tags (N, T); target (N,), texts;
        value (N,), (N, K) or, for each step, (N, T, K). It is read at once
    Nothing is scaled: give numbers of about one. Raises ConfigError with file and line.
    """

    formats = ("npz",)
    endings = (".npz", "")

    def __init__(self, *, path: str, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> None:
        super().__init__(path, fractions)

    def read(self, source: Path) -> Iterator[tuple[str, Example]]:
        if not source.is_dir() and source.suffix != ".npz":
            raise ConfigError(f"data.path={source} should be a folder, or end in .npz")
        for name, where, example in self._folder(source) if source.is_dir() else self._archive(source):
            shape, kind = example["features"].shape, example["features"].dtype.kind
            if len(shape) != 2 or 0 in shape or kind not in "fiub":
                raise ConfigError(f"{where}: features must be numbers (T, F) with T and F above 0, not {kind} {shape}")
            if "tags" in example and len(example["tags"]) != shape[0]:
                raise ConfigError(f"{where}: {len(example['tags'])} tags, but features have {shape[0]} steps")
            value = example.get("value")
            if isinstance(value, ArrayFile) and (len(value.shape) != 2 or len(value) != shape[0]):
                raise ConfigError(f"{value.path}: {value.shape} should be (T, K), a row for each of {shape[0]} steps")
            yield name, example

    def _folder(self, source: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
        targets: dict[str, dict[str, tuple[str, Any]]] = {
            field: read_table(source / table) for field, table in TABLES.items()
        }
        if files := sorted((source / "values").glob("*.npy")):
            if targets["value"]:
                raise ConfigError(f"data.path={source} has both values.tsv and values/; leave one of them out")
            targets["value"] = {path.stem: (str(path), ArrayFile(path)) for path in files}
        present = {field: rows for field, rows in targets.items() if rows}
        if not present:
            raise ConfigError(
                f"data.path={source} needs labels.tsv (NAME, tabulator, label), tags.tsv, targets.tsv, values.tsv or "
                "values/NAME.npy beside its .npy"
            )
        names = {path.stem for path in source.glob("*.npy")}
        for field, rows in present.items():
            for name, (where, _) in rows.items():
                if name not in names:
                    raise ConfigError(f"{where}: {name}.npy does not exist in {source}")
            if missing := sorted(names - rows.keys()):
                raise ConfigError(f"data.path={source} has no {field} for {missing[0]}.npy")
        for name, (where, _) in next(iter(present.values())).items():
            example: dict[str, Any] = {field: rows[name][1] for field, rows in present.items()}
            if "tags" in example:
                example["tags"] = split_blanks(example["tags"])
            yield name, where, {"features": ArrayFile(source / f"{name}.npy"), **example}

    def _archive(self, source: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
        arrays = _loaded(source)
        features = arrays.pop("features", np.zeros(0))
        if features.ndim != 3 or not arrays.keys() & TABLES.keys():
            raise ConfigError(
                f"{source} should hold features (N, T, F), and label (N,), tags (N, T), target (N,) or value (N, K)"
            )
        count, steps = features.shape[:2]
        allowed = {"lengths": (count,), "label": (count,), "tags": (count, steps), "target": (count,)}
        values = arrays.pop("value", None)
        known = values is None or (values.ndim in (1, 2, 3) and len(values) == count and values.dtype.kind in "fiub")
        if values is not None and not known:
            raise ConfigError(
                f"{source}: value {values.shape} should be numbers (N,), (N, K) or (N, T, K), N = {count}"
            )
        for name, array in arrays.items():
            if array.shape != allowed.get(name):
                should = f"should be {allowed[name]}" if name in allowed else f"is none of {', '.join(allowed)}"
                raise ConfigError(f"{source}: features are {features.shape}; {name} {array.shape} {should}")
        lengths = arrays.pop("lengths", None)
        targets = {name: array.astype(str).tolist() for name, array in arrays.items()}
        for index, one in enumerate(_cut(features, lengths, source)):
            example = {name: row[index][: len(one)] if name == "tags" else row[index] for name, row in targets.items()}
            if values is not None:
                example["value"] = values[index][: len(one)] if values.ndim == 3 else values[index].tolist()
            yield str(index), f"{source}, example {index}", {"features": one, **example}


def arrays_of(path: Path) -> Iterator[ArrayFile | PartOfFile]:
    """The sequences of a file by themselves: one of a .npy file, of a .npz file `features` (N, T, F), or every array.

    Raises ConfigError if there is no such file, or it is broken.
    """
    if path.suffix == ".npy":
        yield ArrayFile(path)
        return
    arrays = _loaded(path)
    if "features" in arrays and arrays["features"].ndim == 3:
        yield from _cut(arrays["features"], arrays.get("lengths"), path)
    else:
        yield from (PartOfFile(array, f"{path}, {name}") for name, array in arrays.items())


def _loaded(source: Path) -> dict[str, NDArray[Any]]:
    with _numpy_file(source, ".npz file of numbers and texts"), open_regular(source) as handle:
        with zipfile.ZipFile(handle) as members:
            declared = sum(info.file_size for info in members.infolist())
            if declared > max(FREE, RATIO * os.fstat(handle.fileno()).st_size):
                raise ConfigError(
                    f"{source} would unpack to {declared:,} bytes, more than {RATIO} times its size; if that is right, "
                    "write it with numpy.savez, which does not compress"
                )
            for info in members.infolist():
                with members.open(info) as member:
                    _check_header(member, info.file_size)
        handle.seek(0)
        with np.load(handle, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


@contextmanager
def _numpy_file(path: Path, kind: str) -> Iterator[None]:
    """Raise ConfigError for whatever numpy and zipfile raise for a file that is not `kind`: they list no errors."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path} is not a {kind}: {str(error) or type(error).__name__:.200}") from None


def _check_header(handle: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array in a file of so many bytes; raises ValueError if it declares more than that."""
    read = HEADERS.get(np.lib.format.read_magic(handle))
    if read is None:
        raise ValueError("it is of a newer format, which numbers do not need")
    shape, _, dtype = read(handle)
    if dtype.hasobject:
        raise ValueError("it holds objects of Python, which are code to numpy")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"it declares {shape} of {dtype}, which is more than its {size:,} bytes")
    return shape, dtype


def _cut(features: NDArray[Any], lengths: NDArray[Any] | None, source: Path) -> Iterator[PartOfFile]:
    """The sequences of (N, T, F), each to its length."""
    count, steps = features.shape[:2]
    if lengths is not None and lengths.shape != (count,):
        raise ConfigError(f"{source}: features are {features.shape}; lengths {lengths.shape} should be {(count,)}")
    for index, length in enumerate([steps] * count if lengths is None else lengths.tolist()):
        if not isinstance(length, int) or not 1 <= length <= steps:
            raise ConfigError(f"{source}, example {index}: its length is {length}, but features have {steps} steps")
        yield PartOfFile(features[index, :length], f"{source}, example {index}")


def read_table(path: Path) -> dict[str, tuple[str, str]]:
    """The text of a table for each NAME, with its line; nothing if there is no such file."""
    rows: dict[str, tuple[str, str]] = {}
    for number, line in TextReader().numbered(path) if path.is_file() else []:
        where = f"{path}, line {number}"
        name, tabulator, target = line.partition("\t")
        name = name.strip().removesuffix(".npy")
        if not tabulator or not target.strip():
            raise ConfigError(f"{where}: there should be a name, a tabulator, and the target")
        if name in rows:
            raise ConfigError(f"{where}: {name} was named before, in {rows[name][0]}")
        rows[name] = (where, target.strip())
    return rows
