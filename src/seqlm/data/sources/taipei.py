"""Made-up requests to a travel agency: the slot that a city fills depends on a word before it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import ConfigError
from ..corpus import SPLITS
from ..examples import Example, Examples

CITIES = ["Taipei", "Tokyo", "Paris", "Rome", "Lima", "Cairo", "Delhi", "Oslo"]
MONTHS = ["January", "March", "April", "June", "August", "November"]
DAYS = ["1st", "2nd", "3rd", "5th", "8th", "12th"]
OPENINGS = ["", "please", "i would like to", "can you help me to"]
MEANS = {"arrive": ("destination", "arrival_time"), "leave": ("departure", "departure_time")}
PLACES = ["", "", "in", "the city of"]


class Taipei(Examples):
    """Sentences as "arrive Taipei on November 2nd" and "leave Taipei on November 2nd", with their slots.

    Both verbs and all cities are as likely: a model that sees one word at a time knows a place, but not whether one
    goes there or away; one that remembers the verb makes no mistake. `sentences` are in train, a tenth in the others.
    """

    def __init__(self, *, sentences: int = 1000, seed: int = 0) -> None:
        if sentences < 10:
            raise ConfigError(f"data.sentences={sentences} must be at least 10")
        self.sentences, self.seed = sentences, seed

    def examples(self, split: str) -> Iterator[Example]:
        rng = np.random.default_rng([self.seed, SPLITS.index(split)])
        for _ in range(self.sentences if split == "train" else self.sentences // 10):
            words, tags = [], []
            verbs = list(rng.permutation(list(MEANS)))[: rng.integers(1, 3)]
            for index, verb in enumerate(verbs):
                place, time = MEANS[verb]
                opening = "and" if index else rng.choice(OPENINGS)
                city, month, day = rng.choice(CITIES), rng.choice(MONTHS), rng.choice(DAYS)
                for text, tag in [
                    (f"{opening} {verb} {rng.choice(PLACES)}", "O"),
                    (city, f"B-{place}"),
                    ("on", "O"),
                    (month, f"B-{time}"),
                    (day, f"I-{time}"),
                ]:
                    words += text.split()
                    tags += [tag] * len(text.split())
            yield {"words": [str(word) for word in words], "tags": tags}
