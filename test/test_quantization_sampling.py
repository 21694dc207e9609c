# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sampling: even over groups on every level, uniform within one, seeded, in bounded memory."""
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.quantization.sampling import BalancedSample


def sample_of(stream, size, seed=0):
    sample = BalancedSample(size, seed)
    for group, item in stream:
        sample.add(group, item)
        assert sample.kept <= size
    return sample


def test_a_sample_is_spread_over_the_groups():
    counts = {'long': 1000, 'short': 5, 'middle': 200}
    sample = sample_of(((g, (g, i)) for g, count in counts.items() for i in range(count)), 60)
    drawn = sample.draw()
    assert len(drawn) == len(set(drawn)) == 60
    used = Counter(group for group, _ in drawn)
    assert used['short'] == 5 and {used['long'], used['middle']} == {27, 28}
    assert sample.found == counts
    assert {group for group, _ in drawn[:3]} == set(counts)


def test_instructions_come_before_episodes_and_episodes_before_phases():
    # Flat groups would give the instruction with many episodes nearly everything.
    stream = [(('often', f'o{e}', 'fast'), (e, i)) for e in range(20) for i in range(50)]
    stream += [(('rarely', 'r0', phase), (phase, i)) for phase in ('fast', 'slow')
               for i in range(50)]
    stream += [(('rarely', 'r1', 'fast'), ('r1', i)) for i in range(50)]
    drawn = sample_of(stream, 80).draw()
    assert Counter(group[0] for group, _ in drawn) == {'often': 40, 'rarely': 40}
    assert Counter(group[1] for group, _ in drawn if group[0] == 'rarely') == {'r0': 20, 'r1': 20}
    assert Counter(g[2] for g, _ in drawn if g[1] == 'r0') == {'fast': 10, 'slow': 10}
    assert set(Counter(group[1] for group, _ in drawn if group[0] == 'often').values()) == {2}


def test_a_short_phase_between_long_ones_is_not_lost():
    # a grasp takes a second of a minute
    stream = [(('task', 'episode', 'fast' if not 600 <= i < 620 else 'closing'), i)
              for i in range(1200)]
    used = Counter(group[2] for group, _ in sample_of(stream, 40).draw())
    assert used == {'fast': 20, 'closing': 20}


def test_a_sample_is_uniform_within_a_group():
    counts = Counter()
    for seed in range(400):
        counts.update(item for _, item in sample_of((('a', i) for i in range(40)), 10, seed).draw())
    assert all(60 <= counts[item] <= 140 for item in range(40))  # 100 expected, sigma 8.7
    # early and late ones alike, also the very last
    for part in (range(10), range(10, 20), range(20, 30), range(30, 40)):
        assert abs(sum(counts[item] for item in part) - 1000) < 100  # sigma 24


def test_a_late_group_does_not_bend_the_sample_of_an_early_one():
    early = Counter()
    for seed in range(400):
        stream = [('a', i) for i in range(40)] + [('b', i) for i in range(100, 140)]
        drawn = sample_of(stream, 20, seed).draw()
        early.update(item for group, item in drawn if group == 'a')
    assert sum(early.values()) == 400 * 10
    assert all(60 <= early[item] <= 140 for item in range(40))


def test_a_small_stream_is_taken_whole_and_the_seed_decides():
    def draw(seed, size):
        return [i for _, i in sample_of(((i % 3, i) for i in range(20)), size, seed).draw()]

    assert sorted(draw(0, 50)) == list(range(20))
    assert draw(1, 8) == draw(1, 8) != draw(2, 8)


def test_with_more_groups_than_places_chance_chooses_the_groups():
    drawn = set()
    for seed in range(30):
        picked = [g for g, _ in sample_of(((g, i) for g in range(100) for i in range(3)), 10,
                                          seed).draw()]
        assert len(set(picked)) == 10
        drawn |= set(picked)
    assert len(drawn) > 80


def test_a_size_of_nothing_is_a_mistake():
    with pytest.raises(ValueError, match='size'):
        BalancedSample(0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1,
             max_size=150),
    st.integers(1, 40),
    st.integers(0, 5),
)
def test_shares_are_even_at_every_level_whatever_the_order(groups, size, seed):
    stream = [((a, (a, b), (a, b, c)), i) for i, (a, b, c) in enumerate(groups)]
    drawn = sample_of(stream, size, seed).draw()
    assert len(drawn) == len(set(drawn)) == min(size, len(groups))
    for level in range(3):
        found = Counter(group[: level + 1] for group, _ in stream)
        used = Counter(group[: level + 1] for group, _ in drawn)
        for parent in {key[:-1] for key in found}:
            children = [key for key in found if key[:-1] == parent]
            most = max(used[key] for key in children)
            # whoever gets less than the others by more than one has given all it had
            assert all(used[key] >= most - 1 or used[key] == found[key] for key in children)
