"""Pages of comparisons: the numbers in them, and that nothing in them is loaded or run."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from seqlm.report.curves import POINTS, Curve, curve, generalisation_gap
from seqlm.report.page import DRAWN, Page, Shown, html
from seqlm.report.svg import chart, legend
from seqlm.report.welch import incomplete_beta, welch


def test_welch_against_known_values():
    """The first against the density of t with 5.5208 degrees of freedom, integrated to 2.2514."""
    assert welch([1, 2, 3, 4], [2, 4, 6, 8, 10]) == pytest.approx(0.06913359319, abs=1e-10)
    assert welch([3.0, 3.1, 2.9], [3.0, 3.1, 2.9]) == pytest.approx(1.0)
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([2.0, 2.0], [3.0, 3.0]) is None  # nothing varies: seeds of a deterministic thing say nothing
    assert welch([1.0, 1.1, 0.9], [5.0, 5.1, 4.9]) < 1e-5


@pytest.mark.parametrize(
    ("most", "ticks"), [(20, "1 2 5 10 20"), (2e3, "1 10 100 1000"), (1e20, "1 10k 100M 1000G 1e+07G 1e+11G")]
)
def test_ticks_of_a_logarithmic_scale_are_few(most, ticks):
    drawn = chart({"a": Curve([0, 1], [1, most], [1, most], [1, most])}, "loss", "steps")
    assert re.findall(r'class="tick end">([^<]*)<', drawn) == ticks.split()


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (2.0, 3.0), (9.5, 0.5), (0.5, 40.0)])
def test_the_incomplete_beta_function(a, b):
    """Against its integral by 200,000 trapezoids, of t = x u^2, whose integrand has no pole for a of 1/2 or more."""
    for x in (0.1, 0.5, 0.9):
        count = 200_000
        points = [(k / count) for k in range(count + 1)]
        values = [2 * x**a * u ** (2 * a - 1) * (1 - x * u * u) ** (b - 1) for u in points]
        integral = (sum(values) - (values[0] + values[-1]) / 2) / count
        whole = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
        assert incomplete_beta(a, b, x) == pytest.approx(integral / whole, abs=1e-8)
    assert (incomplete_beta(a, b, 0.0), incomplete_beta(a, b, 1.0)) == (0.0, 1.0)


def records(offset=0.0, count=10, step=10):
    return [
        {"step": step * k, "tokens": 100 * k, "seconds": 0.5 * k, "train/loss": 5.0 / k + offset}
        for k in range(1, count + 1)
    ]


def test_a_curve_is_the_mean_over_seeds_within_its_band():
    found = curve([records(), records(1.0)], "train/loss", "step")
    assert found.x == pytest.approx([10 * k for k in range(1, 11)])
    for k, (mean, low, high) in enumerate(zip(found.mean, found.low, found.high, strict=True), start=1):
        assert (mean, low, high) == pytest.approx((5 / k + 0.5, 5 / k, 5 / k + 1))
    assert curve([records()], "valid/loss", "step").x == [] == curve([], "valid/loss", "step").x


def test_a_long_curve_has_few_points_each_a_mean():
    found = curve([records(count=6000, step=1)], "train/loss", "step")
    assert len(found.x) == POINTS and found.x[0] == 1 and found.x[-1] == 6000
    expected = [5 / k for k in range(1, 6001) if found.x[-2] < k]
    assert found.mean[-1] == pytest.approx(sum(expected) / len(expected))


def test_what_is_not_finite_is_left_out():
    given = [*records(count=3), {"step": 40, "train/loss": None}, {"step": 50, "train/loss": math.inf}]
    assert curve([given], "train/loss", "step").x == pytest.approx([10, 20, 30])
    assert "nothing was logged" in chart({"a": curve([[]], "train/loss", "step")}, "train loss", "steps")


def test_the_gap_between_train_and_valid():
    given = [*records(), {"step": 100, "valid/loss": 0.9}]
    assert generalisation_gap(given) == pytest.approx(0.9 - (5 / 9 + 5 / 10) / 2)
    assert generalisation_gap(records()) is None


@pytest.mark.parametrize("last", [1e-3, 4.0, 5.0])
def test_charts_are_whole_svg_within_their_bounds(last):
    one = [{"step": k, "loss": 5 + (last - 5) * k / 9} for k in range(10)]
    text = chart(
        {"a<b": curve([one, one], "loss", "step"), "c": curve([one[:1]], "loss", "step")}, "loss & more", "steps"
    )
    root = ET.fromstring(text)
    lines = [node for node in root if node.tag == "polyline"]
    assert len(lines) == 2 and lines[0][0].text == "a<b" and lines[0].get("stroke") != lines[1].get("stroke")
    for line in lines:
        for x, y in (map(float, point.split(",")) for point in line.get("points").split()):
            assert 0 <= x <= 640 and 0 <= y <= 320
    samples = re.findall(r"<line[^>]*/>", legend([str(number) for number in range(28)]))
    assert len(set(samples)) == len(samples) == 28, "no two settings have one line"


def test_what_users_wrote_is_text():
    evil = "<script>alert(1)</script>\"'&"
    shown = [Shown(f"{evil}{n}", [evil], [records()], evil) for n in range(DRAWN + 3)]
    columns = [["name", *(one.name for one in shown)], [evil, *("1" for _ in shown)]]
    text = html(Page(evil, evil, columns, shown, {"train/loss": evil}, [evil]), "0")
    assert text.count("<script") == 1 == text.count("</script") and "alert(1)&lt;/script&gt;" in text
    assert not re.search(r"(src|href)=|url\(|@import|https?:", text) and "$" not in text.replace("$&", "")
    assert f"Drawn are the best {DRAWN} of {DRAWN + 3} settings" in text and text.count('class="best"') == 1


def test_a_setting_keeps_its_line_where_another_logged_nothing():
    curves = {"none": curve([[]], "train/loss", "step"), "one": curve([records()], "train/loss", "step")}
    (line,) = re.findall(r"<polyline[^>]*>", chart(curves, "train loss", "steps"))
    assert re.search('stroke="[^"]*"', line)[0] in legend(list(curves)).split("<li>")[2]
