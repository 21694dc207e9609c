# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A second policy on the commanding one's observations and noise, in the time that one leaves.

It has a thread of its own, is asked only for what it will have done before the commanding policy
infers again, as far as its last inferences tell, and nothing of it is ever sent. Knows policies and
chunks; knows nothing of ROS, nor of when that is.
"""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from quantvla_ros.control.rtc import Guidance
from quantvla_ros.observation.types import Observation

_WINDOW = 20  # inferences that tell how long the next one takes
_PERCENTILE = 90.0  # so that a single slow one does not keep it from ever trying again
_SHRINK = 0.9  # of what the warm-up took, which is more than one inference
_FAILURES = 3  # in a row, after which it is left alone
# Normalised actions beyond this have no range in the data: their relative error means nothing.
_LARGE = 20.0

Normalized = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Infers(Protocol):
    """What a shadow needs of a policy."""

    def infer(
        self, observation: Observation, *, seed: int | None = None, guidance: Guidance | None = None
    ) -> np.ndarray:
        """[chunk, action] float32 in the contract's units."""

    def warm_up(self, runs: int = 2) -> None:
        """Make the first inference as fast as the rest."""


@dataclass(frozen=True)
class Difference:
    """Of two chunks.

    Attributes:
        relative: 2-norm of the difference over that of the commanding chunk, normalised.
        largest: the largest difference of one number, in the contract's units.
        row, column: of that number.
    """

    relative: float
    largest: float
    row: int
    column: int


def difference(
    commanding: np.ndarray, shadow: np.ndarray, state: np.ndarray, normalized: Normalized
) -> Difference:
    """How far a shadow's chunk is from the commanding one.

    Args:
        commanding, shadow: [rows, action] in the contract's units.
        state: of the observation.
        normalized: (chunk, state) to the numbers of the network.
    """
    apart = np.abs(shadow.astype(np.float64) - commanding.astype(np.float64))
    # A number against none is the largest difference there is.
    row, column = np.unravel_index(int(np.where(np.isnan(apart), np.inf, apart).argmax()),
                                   apart.shape)
    ours, theirs = (
        np.asarray(normalized(chunk, state), np.float64) for chunk in (shadow, commanding)
    )
    ranged = ~(np.abs(theirs) >= _LARGE).any(axis=0)
    size = float(np.linalg.norm(theirs[:, ranged]))
    error = float(np.linalg.norm((ours - theirs)[:, ranged]))
    relative = error / size if size else (0.0 if error == 0.0 else float('nan'))
    return Difference(relative, float(apart[row, column]), int(row), int(column))


@dataclass(frozen=True)
class Compared:
    """One comparison.

    Attributes:
        tag: what `offer` was given.
        seconds: that the shadow took.
    """

    tag: Any
    difference: Difference
    seconds: float


def _nobody(compared: Compared) -> None:
    """Is told after the end."""


@dataclass(frozen=True)
class _Work:
    observation: Observation
    seed: int
    guidance: Guidance | None
    chunk: np.ndarray
    tag: Any


class Shadow:
    """See the module.

    Args:
        policy: infers; used by the shadow's thread alone.
        normalized: see `difference`.
        compared: told of each comparison, in the shadow's thread.

    Attributes:
        count: comparisons.
        busy: observations left out because it was still at another one.
        no_time: those left out because it would not have been done in time.
        problem: what went wrong last, '' where nothing has since.
        ended: whether it is left alone, having failed several times in a row.
    """

    def __init__(
        self, policy: Infers, normalized: Normalized, compared: Callable[[Compared], None]
    ) -> None:
        self._policy, self._normalized, self._compared = policy, normalized, compared
        self.count = self.busy = self.no_time = 0
        self.problem = ''
        self.ended = False
        self._failures = 0
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._bound = 0.0  # s that an inference does not take, until one is measured
        self._work: _Work | None = None
        self._failure: Exception | None = None
        self._wake = threading.Condition()
        self._stopped = False
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._run, name='shadow', daemon=True)

    @property
    def expected(self) -> float:
        """Seconds that an inference must be expected to take."""
        if not self._seconds:
            return self._bound
        return float(np.percentile(tuple(self._seconds), _PERCENTILE))

    def warm_up(self) -> None:
        """Start the thread and wait until the policy has run on made-up inputs.

        Raises:
            Exception: whatever the policy raised.
        """
        self._thread.start()
        self._warm.wait()
        if self._failure is not None:
            raise self._failure

    def offer(
        self, observation: Observation, seed: int, guidance: Guidance | None, chunk: np.ndarray,
        spare: float, tag: Any,
    ) -> bool:
        """Let it infer what was just inferred, where it has the time. Returns at once.

        Args:
            observation, seed, guidance: as the commanding policy was given them.
            chunk: [rows, action] what that made of them.
            spare: s until the commanding policy infers again.
            tag: comes back with the comparison.
        Returns:
            Whether it does.
        """
        with self._wake:
            if self.ended or self._stopped:
                return False
            if self._work is not None:
                self.busy += 1
                return False
            if self.expected > spare:
                self.no_time += 1
                if not self._seconds:
                    self._bound *= _SHRINK
                return False
            self._work = _Work(observation, seed, guidance, np.array(chunk), tag)
            self._wake.notify()
            return True

    def stop(self, timeout: float) -> bool:
        """End the thread after the inference it is in; False where that takes too long."""
        with self._wake:
            self._stopped = True
            # A thread that does not end must not keep alive whom it would have told.
            self._compared = _nobody
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._policy.warm_up()
            begun = time.perf_counter()
            self._policy.warm_up(1)
            self._bound = time.perf_counter() - begun
        except Exception as error:  # handed to the thread that waits in warm_up
            self._failure = error
            return
        finally:
            self._warm.set()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._work is not None or self._stopped)
                if self._stopped:
                    return
                work = self._work
            assert work is not None
            try:
                self._infer(work)
                self._failures = 0
                self.problem = ''
            except Exception as error:  # whatever it is, it must not reach the commanding policy
                self._failures += 1
                self.problem = f'{type(error).__name__}: {error}'
                self.ended = self._failures >= _FAILURES
            finally:
                with self._wake:
                    self._work = None

    def _infer(self, work: _Work) -> None:
        begun = time.perf_counter()
        if work.guidance is None:
            chunk = self._policy.infer(work.observation, seed=work.seed)
        else:
            chunk = self._policy.infer(work.observation, seed=work.seed, guidance=work.guidance)
        seconds = time.perf_counter() - begun
        self._seconds.append(seconds)
        if chunk.shape != work.chunk.shape:
            raise ValueError(
                f'expected a chunk of {work.chunk.shape} as the commanding policy has it, found '
                f'one of {chunk.shape}'
            )
        found = difference(work.chunk, chunk, work.observation.state, self._normalized)
        self.count += 1
        self._compared(Compared(work.tag, found, seconds))
