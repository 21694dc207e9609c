# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Counters of launches: shared by those that follow each other, not by those side by side."""
import threading

import torch

from quantvla_ros.kernels.counters import counters, lane_counters, own_counters

CPU = torch.device('cpu')


def test_launches_one_after_the_other_share_their_counters():
    first = counters(8, CPU)
    assert first.dtype == torch.int32 and (first == 0).all()
    assert counters(8, CPU) is first


def test_graphs_that_may_run_side_by_side_have_counters_of_their_own():
    shared = counters(8, CPU)
    with own_counters() as held:
        mine = counters(8, CPU)
        assert counters(8, CPU) is mine  # of the warm-up and of the capture
        with own_counters():
            inner = counters(8, CPU)
        assert counters(8, CPU) is mine
    with own_counters():
        other = counters(8, CPU)
    assert len({id(one) for one in (shared, mine, inner, other)}) == 4
    assert counters(8, CPU) is shared and held[CPU, False] is mine


def test_a_graphs_lane_has_counters_of_its_own_and_finds_them_again():
    with own_counters() as held:
        mine = counters(8, CPU)
        found = []
        for _ in range(2):  # the warm-up and the capture
            with lane_counters():
                found.append(counters(8, CPU))
            assert counters(8, CPU) is mine
    assert found[0] is found[1] is held[CPU, True] and found[0] is not mine


def test_another_thread_does_not_take_them():
    found = []
    with own_counters():
        mine = counters(8, CPU)
        thread = threading.Thread(target=lambda: found.append(counters(8, CPU)))
        thread.start()
        thread.join()
    assert found[0] is not mine and found[0] is counters(8, CPU)
