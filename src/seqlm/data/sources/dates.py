"""Dates as people write them, and as ISO 8601 has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta

import numpy as np

from ...errors import ConfigError
from .generated import Generated, Pair

MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ROMAN = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"]
UNITS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"]
ORDINALS = [
    *UNITS, "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
    "eighteenth", "nineteenth", "twentieth", *[f"twenty-{unit}" for unit in UNITS], "thirtieth", "thirty-first",
]  # fmt: skip

# In the fields of `spelled`; where numbers alone are written, the day comes before the month unless the year is first.
# Two digits of a year mean 1969 to 2068, as in POSIX.
FORMATS = """{d} {month} {y}|{dd} {month} {y}|{month} {d}, {y}|{month} {d} {y}|{mon} {d}, {y}|{mon}. {d}, {y}
{d} {mon} {y}|{dd}-{mon}-{y}|{d}. {month} {y}|{d}{th} {month} {y}|{month} {d}{th}, {y}|the {d}{th} of {month}, {y}
{d}{th} of {month} {y}|{weekday}, {d} {month} {y}|{weekday}, {month} {d}, {y}|{day} {d} {mon} {y}|{day}, {dd} {mon} {y}
{weekday} {d}.{m}.{y}|{d}/{m}/{y}|{dd}/{mm}/{y}|{d}.{m}.{y}|{dd}.{mm}.{y}|{dd}-{mm}-{y}|{d} {roman} {y}|{y}/{mm}/{dd}
{y}.{m}.{d}|{y}{mm}{dd}|{y} {month} {d}|{y}-{mon}-{dd}|the {ordinal} of {month} {y}|{month} the {ordinal}, {y}
{d}/{m}/{yy}|{dd}.{mm}.{yy}|{d} {mon} '{yy}|{mon} {d} '{yy}|{dd}-{mon}-{yy}|{month} {d}{th}, '{yy}"""
FORMS = FORMATS.replace("\n", "|").split("|")
LONG_FORMS = [form for form in FORMS if "yy" not in form]
CASES: tuple[Callable[[str], str], ...] = (str, str, str.lower, str.upper)


def spelled(day: date, form: str) -> str:
    """`form` with the parts of a day in it."""
    d, m, month = day.day, day.month, MONTHS[day.month - 1]
    th = "th" if 10 < d < 14 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    weekday = DAYS[day.weekday()]
    return form.format(
        d=d, dd=f"{d:02}", m=m, mm=f"{m:02}", month=month, mon=month[:3], roman=ROMAN[m - 1], y=day.year,
        yy=f"{day.year % 100:02}", th=th, weekday=weekday, day=weekday[:3], ordinal=ORDINALS[d - 1],
    )  # fmt: skip


class Dates(Generated):
    """Days of the years `first` to `last` as people write them: "the 5th of May, 2021" -> "2021-05-05".

    In 37 English forms, some in capitals, some without any; the day comes before the month where a form has numbers
    alone and the year is not first. No day is in two splits, in whatever form.
    """

    def __init__(
        self,
        *,
        first: int = 1900,
        last: int = 2099,
        sizes: Sequence[int] = (50_000, 2_000, 2_000),
        seed: int = 0,
    ) -> None:
        super().__init__(sizes=sizes, seed=seed)
        if not 1000 <= first <= last <= 9999:
            raise ConfigError(f"data.first={first} and data.last={last} must be years from 1000 to 9999, in order")
        self.first, self.days = date(first, 1, 1), (date(last, 12, 31) - date(first, 1, 1)).days + 1

    def draw(self, rng: np.random.Generator, split: str) -> Pair:
        when, form, case = rng.random(3)
        day = self.first + timedelta(days=int(when * self.days))
        known = FORMS if 1969 <= day.year <= 2068 else LONG_FORMS
        text = CASES[int(case * len(CASES))](spelled(day, known[int(form * len(known))]))
        return Pair(text, day.isoformat(), day.isoformat())
