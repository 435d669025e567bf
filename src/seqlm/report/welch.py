"""Whether the means of two settings differ by more than their seeds do."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """The two-sided p-value of Welch's t-test; None for fewer than two numbers on either side, or if none of them vary.

    t = (m_1 - m_2) / sqrt(s_1^2 / n_1 + s_2^2 / n_2), with the degrees of freedom of Welch and Satterthwaite. The
    probability of a difference at least as large if the means are equal: small numbers of seeds make it large. B. L.
    Welch, Biometrika 34 (1947).
    """
    if min(len(one), len(other)) < 2:
        return None
    shares = [statistics.variance(values) / len(values) for values in (one, other)]
    if sum(shares) == 0:
        return None
    t = (statistics.fmean(one) - statistics.fmean(other)) / math.sqrt(sum(shares))
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(values) - 1) for share, values in zip(shares, (one, other), strict=True)
    )
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 <= x <= 1, to some 12 digits.

    By its continued fraction, evaluated as W. J. Lentz does (Applied Optics 15, 1976), on the side where it converges
    fast.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    f, c, d = 1.0, 1.0, 0.0
    for i in range(300):
        m = i // 2
        if i == 0:
            step = 1.0
        elif i % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away_from_0(1 + step * d)
        c = _away_from_0(1 + step / c)
        f *= c * d
        if abs(1 - c * d) < 1e-14:
            break
    return front * (f - 1)


def _away_from_0(value: float) -> float:
    return value if abs(value) > 1e-30 else 1e-30
