# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The thread that infers, apart from the executor: callbacks go on while the policy thinks.

Knows a supervisor and something that infers; knows nothing of ROS but a logger.
"""
from __future__ import annotations

import secrets
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

import numpy as np

from quantvla_ros.control.rtc import Guidance
from quantvla_ros.control.watchdogs import device_failure
from quantvla_ros.nodes.decisions import Work
from quantvla_ros.nodes.supervisor import Supervisor
from quantvla_ros.observation.types import Observation

# s between two looks at the schedule where no picture arrives.
_IDLE = 0.02


class Infers(Protocol):
    """What the thread needs of a policy."""

    def infer(
        self, observation: Observation, *, seed: int | None = None, guidance: Guidance | None = None
    ) -> np.ndarray:
        """[chunk, action] float32 in the contract's units."""

    def warm_up(self) -> None:
        """Make the first inference as fast as the rest."""


class Listener(Protocol):
    """Who wants to know of finished inferences. Called in the thread that infers: must be quick."""

    def inferred(
        self, work: Work, seed: int, raw: np.ndarray, seconds: float, outcome: str
    ) -> None:
        """After what came of it was sent, or not: `outcome` is the node's sentence by then."""


class Logger(Protocol):
    """What the thread needs of a logger."""

    def error(self, message: str) -> None:
        """Log."""


class InferenceThread:
    """Asks the supervisor for work, does it, delivers it. Warms up first.

    The policy is used by this thread alone: it is not thread-safe, and torch keeps a pool of
    workers per thread that calls it.

    Args:
        policy: infers.
        logger: takes the traceback of a policy that fails.
        crashed: told of a fault of ours, not the policy's, that ends the thread.

    Attributes:
        lost: what happened to the GPU, '' where nothing has.

    Attributes:
        listeners: told of every finished inference.
    """

    def __init__(
        self, policy: Infers, logger: Logger, crashed: Callable[[Exception], None]
    ) -> None:
        self._policy, self._logger, self._crashed = policy, logger, crashed
        self.listeners: list[Listener] = []
        self._supervisor: Supervisor | None = None
        self._seed = 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._warm = threading.Event()
        self._failure: Exception | None = None
        self._begun: float | None = None
        self.lost = ''
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)

    def warm_up(self) -> None:
        """Start the thread and wait until the policy has run on made-up inputs.

        Raises:
            Exception: whatever the policy raised.
        """
        self._thread.start()
        self._warm.wait()
        if self._failure is not None:
            raise self._failure

    def serve(self, supervisor: Supervisor, seed: int) -> None:
        """Take work from a supervisor from now on.

        Args:
            supervisor: plans and takes what is inferred.
            seed: of the noise; -1 for fresh noise each time.
        """
        self._seed = seed
        self._supervisor = supervisor
        self._wake.set()

    @property
    def in_flight(self) -> float:
        """For how many s an inference has been under way; 0 where none is."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def wake(self) -> None:
        """Something has arrived: look at the schedule now."""
        self._wake.set()

    def stop(self, timeout: float) -> bool:
        """End the thread after the inference it is in; False where that takes too long."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._policy.warm_up()
        except Exception as error:  # handed to the thread that waits in warm_up
            self._failure = error
            return
        finally:
            self._warm.set()
        try:
            while not self._stop.is_set():
                self._wake.wait(_IDLE)
                self._wake.clear()
                if self._supervisor is not None and not self._stop.is_set():
                    self._once(self._supervisor)
        except Exception as error:
            self._crashed(error)

    def _once(self, supervisor: Supervisor) -> None:
        work = supervisor.plan()
        if work is None:
            return
        # The stamp is in the seed: a bag that is played again gives the same chunks. Fresh noise
        # has a seed, too: what is recorded can be done again.
        seed = (
            secrets.randbits(63) if self._seed < 0
            else (self._seed + work.observation.stamp) % 2**63
        )
        begun = time.perf_counter()
        self._begun = time.monotonic()
        try:
            raw = self._infer(work, seed)
        except Exception as error:  # any fault of a policy ends in a hold and a named state
            lost = device_failure(error)
            if lost is not None:
                self.lost = lost
                supervisor.device_failed(lost)  # the hold first
            else:
                supervisor.failed(work, f'{type(error).__name__}: {error}')
            self._logger.error(f'inference failed:\n{traceback.format_exc()}')
            return
        finally:
            self._begun = None
        seconds = time.perf_counter() - begun
        supervisor.deliver(work, raw, seconds)
        for listener in self.listeners:
            listener.inferred(work, seed, raw, seconds, supervisor.status.sentence)

    def _infer(self, work: Work, seed: int) -> np.ndarray:
        if work.guidance is None:
            return self._policy.infer(work.observation, seed=seed)
        return self._policy.infer(work.observation, seed=seed, guidance=work.guidance)
