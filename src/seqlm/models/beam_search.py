"""Finding what a model would write: word by word, or several hypotheses at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..cells import Carry, Step, map_carry
from ..data.fields import END, UNKNOWN


class Hypothesis(NamedTuple):
    """A sequence that has ended: its words, without the end, and ln p of both."""

    words: list[int]
    log_probability: float

    def score(self, penalty: float) -> float:
        """ln p / lp, what hypotheses are compared by."""
        return self.log_probability / length_penalty(len(self.words) + 1, penalty)


def length_penalty(length: float, penalty: float) -> float:
    """lp(Y) = ((5 + |Y|) / 6)^penalty, |Y| counted with the end; Y. Wu et al., arXiv 1609.08144, equation 14."""
    return float(((5 + length) / 6) ** penalty)


def _permitted(logs: Tensor, at_limit: Tensor, unk: bool) -> Tensor:
    """ln p (B, V) of what may follow: `<unk>`, which is never right, only if `unk`; at the limit (B,) only the end."""
    words = torch.arange(logs.shape[1], device=logs.device)
    refused = at_limit.unsqueeze(1) & (words != END)
    return logs.masked_fill(refused if unk else refused | (words == UNKNOWN), -torch.inf)


def greedy(step: Step, state: Carry, limits: Tensor, unk: bool = False) -> list[Hypothesis]:
    """The most probable word, one after the other, for each of B sequences: at most `limits` (B,) words, then the end.

    `step` is (state, words (B)) -> (state, ln p of the next word (B, V)); the first word it reads is the end. `unk`:
    `<unk>` may be written.
    """
    words, going = torch.full_like(limits, END), torch.ones_like(limits, dtype=torch.bool)
    rows, total = [], torch.zeros((), device=limits.device)
    for place in range(int(limits.max()) + 1):
        state, logs = step(state, words)
        best, words = _permitted(logs, place >= limits, unk).max(-1)
        total = total + torch.where(going, best, 0.0)
        rows.append(words)
        going = going & (words != END)
        if not going.any():
            break
    found = torch.stack(rows, 1).tolist()
    return [Hypothesis(row[: row.index(END)], p) for row, p in zip(found, total.tolist(), strict=True)]


def beam_search(
    step: Step, state: Carry, limits: Tensor, known: list[Hypothesis], size: int, penalty: float, unk: bool = False
) -> list[Hypothesis]:
    """The best hypothesis of each of B sequences, by ln p / lp, among those that a beam of `size` ends with.

    `state` has B * size rows, those of one source side by side. The beam keeps the most probable beginnings; one
    that ends leaves it, and its place stays empty; one that cannot become better than the best found is dropped. The
    best is at first the one in `known`, which `greedy` found: the result is never worse.
    """
    best, scores = list(known), torch.tensor([one.score(penalty) for one in known], dtype=torch.float64)
    count, device = len(known), limits.device
    wide, slots = limits.repeat_interleave(size), torch.arange(size, device=device)
    longest = torch.tensor([length_penalty(limit + 1, penalty) for limit in limits.tolist()], device=device)
    totals = torch.where(slots == 0, 0.0, -torch.inf).expand(count, size)
    room = torch.full((count, 1), size, device=device)
    words, written = torch.full_like(wide, END), torch.empty(count * size, 0, dtype=torch.long, device=device)
    for place in range(int(limits.max()) + 1):
        state, logs = step(state, words)
        logs = _permitted(logs, place >= wide, unk).view(count, size, -1) + totals.unsqueeze(-1)
        totals, index = logs.flatten(1).topk(size)
        totals = totals.masked_fill(slots >= room, -torch.inf)
        parents = (torch.arange(count, device=device).unsqueeze(1) * size + index // logs.shape[-1]).flatten()
        words = (index % logs.shape[-1]).flatten()
        written = torch.cat([written[parents], words.unsqueeze(1)], 1)
        state = map_carry(lambda tensor, parents=parents: tensor.index_select(0, parents), state)  # type: ignore[misc]
        ended = (words == END).view(count, size) & (totals > -torch.inf)
        for source, slot in ended.nonzero().tolist():
            one = Hypothesis(written[source * size + slot, :-1].tolist(), totals[source, slot].item())
            if one.score(penalty) > scores[source]:
                best[source], scores[source] = one, one.score(penalty)
        room = room - ended.sum(1, keepdim=True)
        hopeless = totals / longest.unsqueeze(1) <= scores.to(device).unsqueeze(1)
        totals = totals.masked_fill(ended | hopeless, -torch.inf)
        if totals.isinf().all():
            break
    return best
