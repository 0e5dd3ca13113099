"""Limits and penalties by hand-computed numbers."""

import pytest
import torch

from nmt.search import settings as search_settings

SETTINGS = search_settings.SearchSettings


def _max_lengths(settings, src_lengths, max_positions):
    requests = [search_settings.Request(settings)] * len(src_lengths)
    return search_settings.limits(requests, src_lengths, max_positions).max_lengths_B


@pytest.mark.parametrize(
    ("length", "alpha", "expected"),
    [
        (1, 1.0, 1.0),  # one token, (5 + 1) / 6
        (7, 1.0, 2.0),
        (19, 1.0, 4.0),
        (19, 0.5, 2.0),
        (7, 2.0, 4.0),
        (7, 0.0, 1.0),  # no penalty
        (500, 0.0, 1.0),
        (25, 0.6, 2.6265278044037674),  # 5 ** 0.6
    ],
)
def test_the_penalty_is_that_of_wu_et_al(length, alpha, expected):
    assert search_settings.penalty(length, alpha) == pytest.approx(expected)
    tensor = search_settings.penalty(torch.tensor([float(length)], dtype=torch.float64), alpha)
    assert tensor.tolist() == pytest.approx([expected])


def test_longer_is_kinder_to_a_negative_score():
    penalties = [search_settings.penalty(length, 0.6) for length in range(1, 50)]
    assert penalties == sorted(set(penalties))


@pytest.mark.parametrize(
    ("beam_size", "patience", "num_best", "expected"),
    [
        (5, 1.0, 1, 5),
        (5, 2.0, 1, 10),
        (5, 0.5, 1, 3),  # 2.5, rounded up
        (5, 0.5, 4, 4),  # as many as are asked for at least
        (4, 0.01, 1, 1),
        (1, 1.0, 1, 1),
    ],
)
def test_a_sentence_is_done_at_beam_times_patience_finished(
    beam_size, patience, num_best, expected
):
    found = SETTINGS(beam_size=beam_size, patience=patience, num_best=num_best).num_finished
    assert found == expected


@pytest.mark.parametrize(
    ("options", "src_length", "max_positions", "expected"),
    [
        ({}, 1, None, 23),  # three times the source and 20 more
        ({}, 10, None, 50),
        ({}, 200, None, 512),  # the absolute limit
        ({"max_length": 30}, 10, None, 30),
        ({}, 10, 40, 40),  # what the decoder can represent
        ({}, 10, 60, 50),
        ({"max_length": 30}, 10, 40, 30),
        ({"max_length_ratio": 0.25}, 10, None, 23),  # 2.5, rounded up
        ({"max_length_ratio": 0.1, "min_length": 35}, 10, None, 36),  # room for EOS
        ({"min_length": 35, "max_length": 36}, 1, None, 36),
        ({"min_length": 35}, 1, 20, 20),  # what cannot be represented cannot be asked for
        ({"max_length": 1}, 5, None, 1),
    ],
)
def test_the_longest_target_follows_from_the_source_and_the_limits(
    options, src_length, max_positions, expected
):
    lengths = _max_lengths(SETTINGS(**options), torch.tensor([src_length]), max_positions)
    assert lengths.tolist() == [expected]
    assert lengths.dtype == torch.int64


def test_each_sentence_has_a_limit_of_its_own():
    lengths = _max_lengths(SETTINGS(), torch.tensor([7, 1, 300]), None)
    assert lengths.tolist() == [41, 23, 512]


def test_tags_do_not_count_in_ratios_of_lengths():
    settings = SETTINGS(min_length_ratio=2.0, max_length_ratio=3.0, max_length=100)
    requests = [search_settings.Request(settings, num_tags=number) for number in (0, 1, 2)]
    # Each has four tokens of text and EOS.
    found = search_settings.limits(requests, torch.tensor([5, 6, 7]), None)
    assert found.min_lengths_B.tolist() == [8, 8, 8]
    assert found.max_lengths_B.tolist() == [15 + search_settings.SLACK] * 3
