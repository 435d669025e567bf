"""Units that follow a property of the text, and chance, which must not look like insight."""

from __future__ import annotations

import numpy as np
import torch

from seqlm import ElmanCell, LSTMCell
from seqlm.diagnose.properties import most_varied, properties
from seqlm.diagnose.units import States, rank_units, record_of, shown_units, states_of
from seqlm.diagnose.unrolled import unroll

from .test_diagnose import E, H, V, model_of, text

TEXT = 'he said "go (2 of 30)" and\nleft "open\nnot (here\n'


def test_properties_of_characters():
    found = {name: "".join(str(int(value)) for value in values) for name, values in properties(list(TEXT)).items()}
    #                                 he said "go (2 of 30)" and\nleft "open\nnot (here\n
    assert found["inside quotes"] == "0000000011111111111110" + "00000" + "00000" + "11111" + "0" + "0000000000"
    assert found["inside brackets"] == "000000000000" + "11111111" + "0000000" + "00000000000" + "0000" + "11111" + "0"
    assert found["digit"] == "".join(str(int(sign.isdigit())) for sign in TEXT)
    starts = [place for place, flag in enumerate(found["word start"]) if flag == "1"]
    assert [TEXT[place] for place in starts] == list('hs"(o3al"n('.replace(" ", ""))
    assert properties(list(TEXT))["place in line"][:28].tolist() == [*range(27), 0]


def test_properties_of_words():
    words = ["``", "yes", "''", "-lrb-", "N", "-rrb-", "<eos>", "he", '"', "2nd", '"', "<eos>"]
    found = properties(words)
    assert found["inside quotes"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]
    assert found["inside brackets"].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert found["place in line"].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]
    assert found["digit"].sum() == 1


def made(units):
    """A text of 8 rows with quotes of random lengths, and random states; some of which follow the quotes."""
    draws = np.random.default_rng(0)
    pieces = draws.choice(list('ab" \n'), size=(400, 8), p=[0.4, 0.3, 0.08, 0.2, 0.02])
    states = draws.normal(size=(400, 8, 40)).astype(np.float32)
    inside = np.stack([properties(pieces[:, row].tolist())["inside quotes"] for row in range(8)], 1)
    for unit, weight in units.items():
        states[..., unit] += weight * inside
    return States(pieces, np.zeros((400, 8), dtype=np.int64), {(0, "h"): states[..., :20], (1, "c"): states[..., 20:]})


def test_the_unit_that_follows_a_property_is_found():
    ranked = {one.name: one for one in rank_units(made({25: -2.0, 3: 1.0}))}
    first, second, *_ = ranked["inside quotes"].units
    assert (first.layer, first.state, first.unit) == (1, "c", 5) and (second.layer, second.unit) == (0, 3)
    assert first.score > 0.6 > second.score > 0.3 and ranked["inside quotes"].telling
    assert set(ranked) == {"inside quotes", "place in line", "word start"}, "no brackets, no digits"
    assert not ranked["place in line"].telling and not ranked["word start"].telling


def test_chance_is_no_insight():
    """The best of 40 units on the first half always has some correlation; held out, it is not above chance."""
    ranked = rank_units(made({}))
    assert len(ranked) == 3 and not any(one.telling for one in ranked)
    assert all(0 < one.chance < 0.12 for one in ranked)


def test_a_unit_is_scored_on_the_half_that_it_was_not_chosen_on():
    found = made({})
    inside = np.stack([properties(found.pieces[:, row].tolist())["inside quotes"] for row in range(8)], 1)
    found.states[0, "h"][:, :4, 7] += 2 * inside[:, :4]  # on the first half alone
    found.states[1, "c"][..., 3] += np.where(np.arange(8) < 4, 1.0, -1.0) * inside  # the other way round on the second
    first, second, *_ = next(one for one in rank_units(found) if one.name == "inside quotes").units
    assert (first.layer, first.unit) == (0, 7) and abs(first.score) < 0.1
    assert (second.layer, second.unit) == (1, 3) and second.score < -0.3


def test_states_are_those_of_the_model(tmp_path):
    model, tokens = model_of(LSTMCell(E, H), ElmanCell(H, H)), text(9, 3)
    found = states_of(model, tokens, [chr(97 + token) for token in range(V)])
    assert list(found.states) == [(0, "h"), (0, "c"), (1, "h")]
    tops = torch.stack(unroll(model, tokens).tops).detach().float()
    np.testing.assert_array_equal(found.states[1, "h"], tops)
    found.save(tmp_path / "states.npz")
    with np.load(tmp_path / "states.npz", allow_pickle=False) as kept:
        assert set(kept) == {"pieces", "tokens", "layer0.h", "layer0.c", "layer1.h"}
        assert kept["pieces"][2, 1] == chr(97 + int(tokens[2, 1])) and kept["layer0.c"].shape == (9, 3, H)


def test_units_to_draw_are_the_telling_ones_first():
    found = made({25: -2.0})
    shown = shown_units(found, rank_units(found))
    assert next(iter(shown)) == "inside quotes: layer 1, c 5" and all(len(values) == 400 for values in shown.values())
    record = record_of(rank_units(found), shown, found.pieces[:, 0].tolist())
    assert record["rankings"][0]["telling"] is True and len(record["activations"]) == 24


def test_the_stretch_that_is_drawn_has_something_to_show():
    assert most_varied(list("a" * 50 + 'b "c 1" (d) e' + "a" * 40), 20) == 40
    assert most_varied(list("short"), 20) == 0


def test_one_long_token_does_not_widen_all():
    """An array of texts is as wide as its longest: a megabyte for each token would be 20 GB."""
    words = ["a" * 2**20, *(chr(98 + token) for token in range(V - 1))]
    assert states_of(model_of(ElmanCell(E, H)), text(9, 3), words).pieces.nbytes < 27 * 4 * 100
