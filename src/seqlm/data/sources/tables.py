"""Tables of a text and a label in each row: what separates columns, whether cells are quoted, and which are meant."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from ...errors import ConfigError
from ..reading import LONGEST_LINE, TextReader

Choice: TypeAlias = bool | Literal["auto"]
Row: TypeAlias = tuple[int, list[str]]  # the number of its first line, and its cells
SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";"}
BETWEEN = {"\t": "tabulators", ",": "commas", ";": "semicolons"}
SNIFFED = 100  # rows that say what separates the columns of a .csv file
# Names that a header gives to the columns, the likeliest first.
NAMES = {
    "label": (
        "label", "labels", "class", "category", "target", "sentiment", "polarity", "intent", "emotion", "topic",
        "rating", "stars", "score", "gold_label",
    ),
    "text": (
        "text", "texts", "sentence", "review", "content", "comment", "tweet", "utterance", "document", "body",
        "question", "query", "message", "input",
    ),
}  # fmt: skip
csv.field_size_limit(LONGEST_LINE)


class TableFormat(NamedTuple):
    """How tables are read: the arguments of Labelled of these names."""

    separator: str | None
    quoting: Choice | None
    header: Choice | None
    columns: Mapping[str, int | str | None]  # text and label, by number or name

    @property
    def named(self) -> bool:
        """Whether columns are given by name."""
        return any(isinstance(column, str) for column in self.columns.values())

    def rows(self, path: Path, reader: TextReader) -> Iterator[tuple[int, str, str]]:
        """The number of its line, text and label of each row. Raises ConfigError with file and line."""
        lines = reader.content(path)
        separator = self._separator(path, lines)
        quoted = self.quoting is True or (self.quoting == "auto" and (_is_csv(path) or is_quoted(lines, separator)))
        if quoted and not _is_csv(path):
            reader.remark('cells in quotes, "...", are read without them (data.quoting=false leaves them)', str(path))
        rows = list(_quoted_rows(lines, separator, path) if quoted else _plain_rows(lines, separator))
        if not rows:
            raise ConfigError(f"{path} is empty")
        places, header = self._places(rows, path, separator)
        if header:
            shown = ", ".join(f"{what} in column {places[what]}" for what in ("label", "text"))
            reader.remark(f"the first line is a header, {shown} (data.header=false: an example)", str(path))
        width = len(rows[0][1])
        for number, cells in rows[header:]:
            if len(cells) != width:
                raise ConfigError(f"{path}, line {number}: {len(cells)} columns, but {width} in the first line")
            yield number, cells[places["text"]], cells[places["label"]]

    def _separator(self, path: Path, lines: Sequence[str]) -> str:
        if self.separator is not None:
            return SEPARATORS.get(self.separator, self.separator)
        if not _is_csv(path):
            return "\t"
        return max(",;\t", key=lambda one: _agreement(lines[:SNIFFED], one))

    def _places(self, rows: Sequence[Row], path: Path, separator: str) -> tuple[dict[str, int], bool]:
        """The columns of text and label, and whether the first row is a header."""
        first = [cell.strip() for cell in rows[0][1]]
        where = f"{path}, line {rows[0][0]}"
        if self.named:
            return {what: self._by_name(what, first, where) for what in NAMES}, True
        numbers = {what: column for what, column in self.columns.items() if isinstance(column, int)}
        places = {"label": 0, "text": 1, **numbers}
        for what, place in places.items():
            if not 0 <= place < len(first):
                between = BETWEEN.get(separator, repr(separator))
                raise ConfigError(
                    f"{where}: {len(first)} columns, with {between} between; there is no number {place} "
                    f"(data.{what}; the first is 0)"
                )
        if not self.header:
            return places, False
        known = {what: _known(what, first) for what in NAMES}
        if not numbers and None not in known.values():
            return {what: place for what, place in known.items() if place is not None}, True
        likely = known == places or _numbers_below(rows, places["label"])
        return places, self.header is True or likely

    def _by_name(self, what: str, names: Sequence[str], where: str) -> int:
        name = what if self.columns[what] is None else str(self.columns[what])
        if name not in names:
            raise ConfigError(f"{where}: there is no column data.{what}={name}, but {', '.join(names)}")
        return names.index(name)


def is_quoted(lines: Sequence[str], separator: str) -> bool:
    """Whether a table is written with cells in quotes, rather than with quotation marks that belong to its texts.

    It is if every cell that begins with a quote ends with one, rows are of one width then, and this says more than
    chance: a quote is doubled inside, a separator or line end is inside, or a whole column is in quotes.
    """
    if not any('"' in line for line in lines):
        return False
    try:
        widths = {len(cells) for cells in csv.reader(lines, delimiter=separator, strict=True) if cells}
    except csv.Error:
        return False
    cells = [line.split(separator) for line in lines if line.strip()]
    if len(widths) != 1 or {len(row) for row in cells} != widths:
        return len(widths) == 1  # only with quotes is it a table
    marked = [[cell.startswith('"') for cell in row] for row in cells]
    doubled = any('""' in cell[1:-1] for row in cells for cell in row if cell.startswith('"'))
    return doubled or any(all(column) for column in zip(*marked, strict=True))


def _plain_rows(lines: Iterable[str], separator: str) -> Iterator[Row]:
    return ((number, line.split(separator)) for number, line in enumerate(lines, start=1) if line.strip())


def _quoted_rows(lines: Sequence[str], separator: str, path: Path) -> Iterator[Row]:
    """Rows as the csv module reads them; a cell in quotes may hold line ends."""
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True)
    number = 1
    try:
        for cells in rows:
            if any(cell.strip() for cell in cells):
                yield number, cells
            number = rows.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path}, line {number}: {error}; data.quoting=false takes quotes for text") from None


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _agreement(lines: Sequence[str], separator: str) -> tuple[int, int]:
    """How many rows have as many columns as the first, if that has several; and how many those are."""
    try:
        widths = [len(cells) for cells in csv.reader(lines, delimiter=separator) if cells]
    except csv.Error:
        return 0, 0
    return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)


def _known(what: str, names: Sequence[str]) -> int | None:
    """The column that a header calls text or label, by one of the names that are usual."""
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in NAMES[what] if name in lower), None)


def _numbers_below(rows: Sequence[Row], column: int) -> bool:
    """Whether all of a column are numbers but its first cell."""

    def is_number(cells: Sequence[str]) -> bool:
        try:
            return len(cells) > column and bool([float(one) for one in cells[column].split()])
        except ValueError:
            return False

    return len(rows) > 2 and not is_number(rows[0][1]) and all(is_number(cells) for _, cells in rows[1:])
