# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What stops the arm until a person says otherwise, and what does not."""
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from quantvla_ros.contract.types import Safety
from quantvla_ros.control.guard import Reason
from quantvla_ros.control.latch import Latch, LatchReason

SAFETY = Safety(not_finite_latch=3, rejection_latch=5)


@pytest.fixture
def latch() -> Latch:
    return Latch(SAFETY)


def drop(latch: Latch, reason: Reason, times: int) -> None:
    for _ in range(times):
        latch.dropped(reason, reason.value)


def test_one_bad_chunk_does_not_latch_and_the_streak_does(latch):
    drop(latch, Reason.NOT_FINITE, 2)
    assert latch.latched is None
    drop(latch, Reason.NOT_FINITE, 1)
    assert latch.latched.reason is LatchReason.NOT_FINITE
    assert '3 times' in latch.latched.sentence


def test_a_chunk_that_passes_ends_a_streak(latch):
    for _ in range(10):
        drop(latch, Reason.NOT_FINITE, 2)
        latch.passed()
    assert latch.latched is None


def test_drops_of_different_kinds_are_one_streak_of_rejections(latch):
    drop(latch, Reason.START_JUMP, 2)
    drop(latch, Reason.VELOCITY_LIMIT, 2)
    assert latch.latched is None
    drop(latch, Reason.NOT_FINITE, 1)
    assert latch.latched.reason is LatchReason.REJECTIONS


def test_a_slow_policy_is_no_rejection(latch):
    drop(latch, Reason.TOO_LATE, 100)
    assert latch.latched is None


def test_the_controllers_refusals_latch_in_its_own_words(latch):
    for _ in range(4):
        latch.refused('PATH_TOLERANCE_VIOLATED')
    latch.accepted()
    for _ in range(5):
        latch.refused('PATH_TOLERANCE_VIOLATED: wrist')
    assert latch.latched.reason is LatchReason.CONTROLLER
    assert 'wrist' in latch.latched.sentence


def test_a_released_emergency_stop_stays_latched_until_reset(latch):
    latch.emergency(True)
    assert latch.reset() is not None and latch.latched is not None
    latch.emergency(False)
    assert latch.latched.reason is LatchReason.EMERGENCY_STOP
    assert latch.reset() is None and latch.latched is None


def test_a_reset_counts_anew(latch):
    drop(latch, Reason.NOT_FINITE, 3)
    assert latch.reset() is None
    drop(latch, Reason.NOT_FINITE, 2)
    assert latch.latched is None


def test_a_lost_device_is_mended_by_no_reset(latch):
    latch.device_failed('CUDA error: an illegal memory access was encountered')
    assert 'illegal memory' in latch.reset()
    assert latch.latched.reason is LatchReason.DEVICE


class Latching(RuleBasedStateMachine):
    """Whatever happens in whatever order: shut stays shut until a reset that was granted."""

    @initialize()
    def start(self):
        self.latch, self.pressed, self.shut = Latch(SAFETY), False, False

    @rule(reason=st.sampled_from(list(Reason)), times=st.integers(1, 6))
    def dropped(self, reason, times):
        drop(self.latch, reason, times)
        self.shut |= reason is Reason.NOT_FINITE and times >= 3
        self.shut |= reason is not Reason.TOO_LATE and times >= 5
        self.shut |= self.latch.latched is not None

    @rule(pressed=st.booleans())
    def emergency(self, pressed):
        self.latch.emergency(pressed)
        self.pressed = pressed
        self.shut |= pressed

    @rule()
    def passed(self):
        self.latch.passed()

    @rule()
    def reset(self):
        if self.latch.reset() is None:
            assert not self.pressed
            self.shut = False

    @invariant()
    def shut_stays_shut(self):
        assert not self.shut or self.latch.latched is not None
        assert not self.pressed or self.latch.latched is not None


Latching.TestCase.settings = settings(max_examples=50, deadline=None)
test_shut_stays_shut_until_a_reset = Latching.TestCase
