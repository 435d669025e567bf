"""Examples that have an empty part: left out and counted, or refused with all of them counted at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ConfigError

SHOWN = 3  # places in an error


class Empties:
    """The examples with an empty part in the files of a source.

    Args:
        skip: leave them out (data.skip_empty); else they are an error
    """

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self._counts: dict[Path, int] = {}

    @contextmanager
    def of(self, path: Path) -> Iterator[Callable[[str], None]]:
        """While the examples of a file are read: a function that takes the place of each one with an empty part.

        Raises ConfigError, when all of the file was read, if there were any that should not be left out.
        """
        count, places = 0, list[str]()

        def found(place: str) -> None:
            nonlocal count
            count += 1
            if len(places) < SHOWN:
                places.append(place)

        yield found
        self._counts[path] = count
        if count and not self._skip:
            more = [f"and {count - len(places):,} more"] if count > len(places) else []
            raise ConfigError(
                f"{path}: {count:,} of its examples {'has' if count == 1 else 'have'} an empty part; "
                "data.skip_empty=true leaves them out\n" + "\n".join(f"  {place}" for place in [*places, *more])
            )

    def note(self) -> str:
        """One line about how many were left out; empty if none."""
        counts = [f"{count:,} in {path.name}" for path, count in self._counts.items() if count]
        return f"left out, for a part of them is empty: {', '.join(counts)}" if counts else ""
