# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Counters of launches: shared by those that follow each other, not by those side by side."""
import threading

import torch

from quantvla_ros.kernels.counters import counters, counters_of_lane, own_counters

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
    assert counters(8, CPU) is shared and held[CPU, 0] is mine


def test_lanes_of_a_graph_have_counters_of_their_own_and_find_them_again():
    with own_counters() as held:
        mine = counters(8, CPU)
        for _ in range(2):  # the warm-up and the capture
            for lane in (1, 2):
                with counters_of_lane(lane):
                    assert counters(8, CPU) is held[CPU, lane]
            assert counters(8, CPU) is mine
    assert len({id(one) for one in held.values()}) == len(held) == 3


def test_another_thread_does_not_take_them():
    found = []
    with own_counters():
        mine = counters(8, CPU)
        thread = threading.Thread(target=lambda: found.append(counters(8, CPU)))
        thread.start()
        thread.join()
    assert found[0] is not mine and found[0] is counters(8, CPU)
