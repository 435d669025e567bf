"""Tag schemes: how tags say where entities begin and end. Recognised from the tags of train; the one place that counts.

IOB1 and IOB2 (L. A. Ramshaw and M. P. Marcus, 1995; A. Ratnaparkhi, 1998), IOE1 and IOE2, IOBES, BILOU (L. Ratinov and
D. Roth, 2009), BMES of Chinese word segmentation, and BMEWO, whose W is a whole entity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..errors import ConfigError

OUTSIDE = "O"
# Letters of the schemes, and which of begin, inside, end and single each stands for.
ROLES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S", "W": "S"}
# Letters of each scheme beside O. Of several that fit equally well the first one is taken.
LETTERS = {
    "IOB2": "BI", "IOB1": "BI", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEWO": "BMEW", "IOE2": "IE",
    "IOE1": "IE",
}  # fmt: skip
NAMES = tuple(sorted(LETTERS))
ALIASES = {"IOB": "IOB1", "BIO": "IOB2", "BIO2": "IOB2", "BIOES": "IOBES", "IOBE": "IOBES", "BILUO": "BILOU"}
SEPARATORS = "-_:/|."  # between a letter and a type
MOST_BROKEN = 0.2  # of the transitions of train that may break a scheme: real data has errors

Entity = tuple[str, int, int]  # type, first, last + 1
Pairs = Mapping[tuple[str, str], int]  # how often a tag follows another; O stands before the first and after the last


class Part(NamedTuple):
    """A tag taken apart: the role of its letter, B, I, E, S or O, and the type."""

    role: str
    type: str


OUT = Part(OUTSIDE, "")


@dataclass(frozen=True)
class TagScheme:
    """A scheme, and how its tags are written: `B-PER`, `PER_B`, `b:per`, or `B` alone.

    Args:
        name: one of NAMES, or conlleval, which reads IOB1, IOB2, IOBES and BILOU alike.
        letters: those that it has beside O.
        separator: between the letter and the type; a letter alone has the type "".
        suffix: the letter stands behind the type.
        lower: letters are small.
        strict: entities that break the scheme do not count; else they are read as conlleval reads them.
    """

    name: str
    letters: str
    separator: str = "-"
    suffix: bool = False
    lower: bool = False
    strict: bool = False

    @property
    def only_whole(self) -> bool:
        """Whether entities that break the scheme do not count."""
        return self.name.startswith("BM") or (self.strict and self.name not in ("IOB1", "IOE1"))

    @property
    def beginnings(self) -> str:
        """The roles with which an entity may begin."""
        return "BIES" if not self.only_whole else "BS" if "B" in self.letters else "IE"

    def part(self, tag: str) -> Part | None:
        """The role and type of a tag; None for one that the scheme does not have."""
        if self.suffix:
            type_, _, letter = tag.rpartition(self.separator)
        else:
            letter, _, type_ = tag.partition(self.separator)
        if letter.upper() == OUTSIDE:
            return OUT
        if self.lower:
            letter = letter.upper() if letter.islower() else ""
        return Part(ROLES[letter], type_) if len(letter) == 1 and letter in self.letters else None

    def broken(self, before: Part, now: Part) -> bool:
        """Whether `now` may not follow `before`."""
        goes_on, same = before.role in "BI" and now.role in "IE", before.type == now.type
        joined = goes_on and same
        if self.name == "IOB2":
            return now.role == "I" and not joined
        if self.name == "IOB1":
            return now.role == "B" and not (before.role in "BI" and same)
        if self.name == "IOE2":
            return before.role == "I" and not joined
        if self.name == "IOE1":
            return before.role == "E" and not (now.role in "IE" and same)
        return (before.role in "BI" or now.role in "IE") and not joined

    def __str__(self) -> str:
        return self.name + ", strict" * self.strict


# Of runs that are older than schemes: whatever has a letter of one of these.
CONLLEVAL = TagScheme("conlleval", "BIESLU")


def entities(tags: Sequence[str], scheme: TagScheme = CONLLEVAL) -> set[Entity]:
    """(type, first, last + 1) of every entity in tags.

    As conlleval reads them, broken sequences too, so that F1 is that of published results: an entity goes on at I- or
    E- of its type, after B- or I-; it begins anew at every B- and S-, and wherever else a tag is not O. BMES and BMEWO
    are always strict, as word segmentation is counted, and others with `strict`: an entity is B M* E or S (B I* in
    IOB2, I* E in IOE2), of one type, and what is neither is none. In IOB1 and IOE1 nothing is broken. A letter of
    another scheme, which train lacks, is read as what it stands for.
    """
    reads = scheme if scheme == CONLLEVAL else replace(scheme, letters="".join(ROLES))
    parts = [reads.part(tag) or OUT for tag in tags]
    return _whole(parts, scheme) if scheme.only_whole else _as_conlleval(parts)


def any_begins(tags: Collection[str], scheme: TagScheme) -> bool:
    """Whether one of the tags may begin an entity."""
    return any((scheme.part(tag) or OUT).role in scheme.beginnings for tag in tags)


def _as_conlleval(parts: Sequence[Part]) -> set[Entity]:
    found, kind, start, before = set(), None, 0, OUTSIDE
    for place, (role, name) in enumerate([*parts, OUT]):
        if not (role in "IE" and before in "BI" and name == kind):
            if kind is not None:
                found.add((kind, start, place))
            kind, start = None if role == OUTSIDE else name, place
        before = role
    return found


def _whole(parts: Sequence[Part], scheme: TagScheme) -> set[Entity]:
    """Entities from a letter that may begin one to one that may end it."""
    begins, must_end = scheme.beginnings, scheme.letters != "BI"
    found, kind, start = set(), "", -1  # -1: outside
    for place, (role, name) in enumerate([*parts, OUT]):
        if not (start >= 0 and role in "IE" and name == kind):
            if start >= 0 and not must_end:
                found.add((kind, start, place))
            kind, start = name, place if role in begins else -1
        if start >= 0 and role in "ES":
            found.add((kind, start, place + 1))
            start = -1
    return found


def recognise(tags: Collection[str], pairs: Pairs) -> tuple[TagScheme | None, str]:
    """The scheme of the tags of train, and how they follow each other; None with the reason if they have none.

    Letters alone do not tell IOB1 from IOB2, nor entities from parts of speech that are called S, B and E: the scheme
    that fewest transitions break is taken, and none if they are many.
    """
    known = [scheme for name in LETTERS for scheme in _ways(name) if all(map(scheme.part, tags))]
    if not known:
        return None, f"the tag {_misfit(tags)} fits no scheme ({', '.join(NAMES)}) beside the others"
    bare = not any(part.type for tag in tags if (part := known[0].part(tag)))
    shares = {scheme: _broken_share(scheme, pairs) for scheme in known}
    best = min(known, key=lambda one: (shares[one], not (bare and one.name == "BMES")))
    # Types vouch for themselves where every sequence can be read: data that mixes IOB1 and IOB2, say.
    if shares[best] > MOST_BROKEN and (bare or best.letters != "BI"):
        worst, _ = max(_broken(best, pairs), key=lambda item: (item[1], item[0]))
        reason = f"{100 * shares[best]:.0f}% of train breaks {best.name}, {' then '.join(worst)} for instance"
        return None, reason
    return best, ""


def forced(name: str, tags: Collection[str]) -> TagScheme:
    """The scheme `name` as these tags write it. Raises ConfigError, naming the tag, if it does not have one of them."""
    ways = list(_ways(name))
    fitting = [scheme for scheme in ways if all(map(scheme.part, tags))]
    if not fitting:
        most = max(ways, key=lambda scheme: sum(scheme.part(tag) is not None for tag in tags))
        wrong = next(tag for tag in tags if most.part(tag) is None)
        raise ConfigError(
            f"task.scheme={name} has no tag {wrong}, which this data has; its letters are "
            f"{', '.join([*LETTERS[name], OUTSIDE])}"
        )
    return fitting[0]


def named(name: str, tags: Collection[str]) -> TagScheme:
    """A scheme that was recognised before, as these tags write it. Raises ValueError if they do not have it."""
    if name == CONLLEVAL.name:
        return CONLLEVAL
    found = next((one for one in _ways(name) if all(map(one.part, tags))), None) if name in LETTERS else None
    if found is None:
        raise ValueError(f"tag_scheme={name!r:.80} is no scheme of its tags")
    return found


def check_name(name: str) -> str:
    """The name of a scheme, for one of its other names too. Raises ValueError if there is none."""
    upper = name.upper()
    if (found := ALIASES.get(upper, upper)) not in LETTERS:
        others = ", ".join(f"{other} ({own})" for other, own in ALIASES.items())
        raise ValueError(f"scheme={name} is unknown; allowed: {', '.join(NAMES)}; also {others}")
    return found


def _ways(name: str) -> Iterator[TagScheme]:
    """The ways in which the tags of a scheme may be written, the usual ones first."""
    for lower in (False, True):
        for suffix in (False, True):
            for separator in SEPARATORS:
                yield TagScheme(name, LETTERS[name], separator, suffix, lower)


def _misfit(tags: Collection[str]) -> str:
    """A tag that no scheme has, or else one beside which another could be of a scheme."""
    anything = TagScheme("", "".join(ROLES))
    ways = [replace(one, letters=anything.letters) for one in _ways("IOB2")]
    best = max(ways, key=lambda one: sum(one.part(tag) is not None for tag in tags))
    counts = {name: sum(_has(name, best, tag) for tag in tags) for name in LETTERS}
    nearest = max(counts, key=lambda name: counts[name])
    return next((tag for tag in tags if best.part(tag) is None), None) or next(
        tag for tag in tags if not _has(nearest, best, tag)
    )


def _has(name: str, way: TagScheme, tag: str) -> bool:
    return replace(way, letters=LETTERS[name]).part(tag) is not None


def _broken(scheme: TagScheme, pairs: Pairs) -> list[tuple[tuple[str, str], int]]:
    """Transitions that break a scheme, with how often they occur."""
    parts = {tag: scheme.part(tag) or OUT for pair in pairs for tag in pair}
    return [((a, b), count) for (a, b), count in pairs.items() if scheme.broken(parts[a], parts[b])]


def _broken_share(scheme: TagScheme, pairs: Pairs) -> float:
    """The share of transitions that break a scheme, among those from or to an entity."""
    inside = sum(n for (a, b), n in pairs.items() if not scheme.part(a) == scheme.part(b) == OUT)
    return sum(count for _, count in _broken(scheme, pairs)) / max(1, inside)


def transitions(tags: Sequence[str]) -> Counter[tuple[str, str]]:
    """How often a tag follows another in a sequence, with O at both ends."""
    return Counter(zip([OUTSIDE, *tags], [*tags, OUTSIDE], strict=True))
