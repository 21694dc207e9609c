# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node's shadow (parameter `shadow_artifact`): how far another policy would differ.

Offers it every finished inference together with the time until the next one, publishes what it
finds on `~/shadow` and sums it up for /diagnostics. A shadow that cannot be loaded, or fails, is
said there; the commanding policy goes on without it.
"""
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from quantvla_ros.contract.types import Contract
from quantvla_ros.control.schedule import Schedule
from quantvla_ros.engine.shadow import Compared, Normalized, Shadow
from quantvla_ros.msg import ShadowDifference
from quantvla_ros.nodes.decisions import Work
from quantvla_ros.nodes.messages import diagnostic, duration_message, time_message
from quantvla_ros.nodes.output import COMMAND_QOS

_WINDOW = 200  # comparisons that /diagnostics sums up


class ShadowReport:
    """See the module.

    Args:
        node: publishes.
        contract: names the numbers of a chunk.
        info: of the commanding policy.
        schedule: of the commanding policy: tells when it infers next.
        now: the node's clock, ns.
        load: gives the shadow's policy, ready but for its warm-up; whatever it raises, the node
            goes on.
    """

    def __init__(
        self, node: LifecycleNode, contract: Contract, info: Any, schedule: Schedule,
        now: Callable[[], int], load: Callable[[], Any],
    ) -> None:
        self._node, self._contract, self._info = node, contract, info
        self._schedule, self._now = schedule, now
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, float, str]] = deque(maxlen=_WINDOW)
        self._shadow: Shadow | None = None
        self._shadow_info: Any = None
        self._failure = self._said = ''
        self._publisher = node.create_publisher(ShadowDifference, '~/shadow', COMMAND_QOS)
        logger = node.get_logger()
        try:
            policy = load()
            shadow = Shadow(policy, _normalized(policy), self._compared)
            shadow.warm_up()
        except Exception as error:  # of the shadow's own; said, and no reason not to work
            self._failure = f'{type(error).__name__}: {error}'
            logger.warning(f'shadow_artifact: there is no shadow: {self._failure}')
            return
        self._shadow, self._shadow_info = shadow, policy.info
        logger.info(
            f'shadow: {policy.info.artifact_id}: {policy.info.precision} on '
            f'{policy.running.device}, engine {policy.running.engine}'
        )

    def inferred(
        self, work: Work, seed: int, raw: np.ndarray, seconds: float, outcome: str
    ) -> None:
        """The commanding policy has inferred."""
        if self._shadow is not None:
            self._shadow.offer(
                work.observation, seed, work.guidance, raw, self._schedule.spare(self._now()),
                work,
            )

    def diagnose(self) -> DiagnosticStatus:
        """For /diagnostics; a failure is logged here, once."""
        name, robot = f'{self._node.get_name()}: shadow', self._contract.robot
        shadow = self._shadow
        if shadow is None:
            return diagnostic(
                DiagnosticStatus.ERROR, name, robot, f'there is no shadow: {self._failure}', {}
            )
        with self._lock:
            recent = tuple(self._recent)
        problem = shadow.problem
        if problem and problem != self._said:
            self._node.get_logger().warning(f'shadow: {problem}')
        self._said = problem
        values: dict[str, object] = {
            'artifact': self._shadow_info.artifact_id,
            'precision': self._shadow_info.precision,
            'compared': shadow.count,
            'left out, still busy': shadow.busy,
            'left out, no spare time': shadow.no_time,
            'inference expected (s)': f'{shadow.expected:.4f}',
        }
        level, message = DiagnosticStatus.OK, 'nothing compared yet'
        if recent:
            relative = [entry[0] for entry in recent]
            largest = max(recent, key=lambda entry: np.nan_to_num(entry[1], nan=np.inf))
            message = (
                f'relative error {np.median(relative):.4f} (median of the last {len(recent)})'
            )
            values |= {
                'relative error, median': f'{np.median(relative):.6f}',
                'relative error, largest': f'{np.max(relative):.6f}',
                'largest difference': f'{largest[1]:.6g} {largest[2]}',
            }
        elif shadow.no_time:
            level = DiagnosticStatus.WARN
            message = 'the commanding policy leaves it no time'
        if problem:
            level = DiagnosticStatus.ERROR if shadow.ended else DiagnosticStatus.WARN
            message = f'it {"failed and is left alone" if shadow.ended else "failed"}: {problem}'
        return diagnostic(level, name, robot, message, values)

    def close(self, timeout: float) -> None:
        """End it, once the inference it is in has ended or after `timeout` s."""
        if self._shadow is not None:
            self._shadow.stop(timeout)
        self._node.destroy_publisher(self._publisher)

    def _compared(self, found: Compared) -> None:
        """In the shadow's thread."""
        shadow, work, apart = self._shadow, found.tag, found.difference
        assert shadow is not None
        names = [
            (name, part.unit) for part in self._contract.action.parts for name in part.names
        ]
        joint, unit = names[apart.column]
        with self._lock:
            self._recent.append((apart.relative, apart.largest, f'{unit}, {joint}'))
        message = ShadowDifference(
            sequence=work.sequence,
            artifact_id=self._info.artifact_id,
            precision=self._info.precision,
            shadow_artifact_id=self._shadow_info.artifact_id,
            shadow_precision=self._shadow_info.precision,
            relative_error=apart.relative,
            largest_difference=apart.largest,
            joint=joint,
            row=apart.row,
            inference_time=duration_message(found.seconds),
            compared_count=shadow.count,
            skipped_busy_count=shadow.busy,
            skipped_time_count=shadow.no_time,
        )
        message.header.stamp = time_message(work.observation.stamp)
        message.header.frame_id = self._contract.action.frame_id
        self._publisher.publish(message)


def _normalized(policy: Any) -> Normalized:
    """The policy's own scales; what it returns as it is where it has none."""
    processor = getattr(policy, 'processor', None)
    return processor.normalized if processor is not None else lambda chunk, state: chunk
