# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the policy node publishes: chunks, trajectories and its status.

Chunks and trajectories go out through lifecycle publishers, so that an inactive node cannot command
anything even by mistake of ours.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from trajectory_msgs.msg import JointTrajectory

from quantvla_ros.contract.types import Contract
from quantvla_ros.control.guard import Reason
from quantvla_ros.control.schedule import Latencies
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.msg import ActionChunk, PolicyStatus
from quantvla_ros.nodes.messages import (
    chunk_trajectory,
    duration_message,
    time_message,
    trajectory_message,
)
from quantvla_ros.nodes.states import Counts, State, Status
from quantvla_ros.nodes.supervisor import Sent

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

COMMAND_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1
)
STATUS_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)
ACKNOWLEDGED = 0.5  # s to wait at most until a last message has arrived before the node goes


class Commands:
    """The publishers that move an arm; a `supervisor.Sink` together with `changed`.

    Args:
        node: publishes.
        contract: topic and frame of the commands.
        artifact_id: what computes the chunks.
        changed: takes status changes.
    """

    def __init__(
        self,
        node: LifecycleNode,
        contract: Contract,
        artifact_id: str,
        changed: Callable[[Status], None],
    ) -> None:
        self._node, self._contract, self._artifact_id = node, contract, artifact_id
        self.changed = changed
        self.incompatible = ''
        self._chunks = node.create_lifecycle_publisher(ActionChunk, '~/action_chunk', COMMAND_QOS)
        self._trajectories = node.create_lifecycle_publisher(
            JointTrajectory, contract.action.topic, COMMAND_QOS,
            event_callbacks=PublisherEventCallbacks(incompatible_qos=self._incompatible),
        )

    def chunk(self, sent: Sent) -> None:
        """Publish a chunk and what is left of it for the controller."""
        frame = self._contract.action.frame_id
        # The controller first: it is the one in a hurry.
        self._trajectories.publish(trajectory_message(sent.points, frame))
        message = ActionChunk(
            sequence=sent.work.sequence,
            instruction=sent.work.observation.instruction,
            artifact_id=self._artifact_id,
            joint_names=list(sent.chunk.joints),
            trajectory=chunk_trajectory(sent.chunk, frame),
            control_period=duration_message(sent.chunk.period),
            observation_age=duration_message(sent.work.age),
            inference_time=duration_message(sent.inference_time),
        )
        message.header = message.trajectory.header
        self._chunks.publish(message)

    def hold(self, points: Trajectory) -> None:
        """Publish a hold."""
        self._trajectories.publish(trajectory_message(points, self._contract.action.frame_id))

    def wait_until_received(self) -> None:
        """Give the last command time to arrive, before its publisher goes."""
        if self.controllers():
            self._trajectories.wait_for_all_acked(Duration(seconds=ACKNOWLEDGED))

    def controllers(self) -> int:
        """Subscribers of the commands."""
        return self._trajectories.get_subscription_count()

    def rivals(self) -> int:
        """Other publishers of the same commands."""
        topic = self._node.resolve_topic_name(self._contract.action.topic)
        return max(0, self._node.count_publishers(topic) - 1)

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in (self._chunks, self._trajectories):
            self._node.destroy_lifecycle_publisher(publisher)

    def _incompatible(self, event: Any) -> None:
        from rclpy.qos import qos_policy_name_from_kind

        self.incompatible = qos_policy_name_from_kind(event.last_policy_kind).lower()
        self._node.get_logger().warning(
            f'{self._contract.action.topic}: a subscriber cannot hear the commands, its '
            f'{self.incompatible} does not fit: offered are RELIABLE, VOLATILE'
        )


def status_message(
    status: Status,
    now: int,
    *,
    instruction: str = '',
    artifact_id: str = '',
    precision: str = '',
    counts: Counts | None = None,
    latencies: Latencies | None = None,
    refused_messages: int = 0,
    observation_age: float = 0.0,
) -> PolicyStatus:
    """PolicyStatus of this instant; what is not given is zero or empty."""
    counts, latencies = counts or Counts(), latencies or Latencies()
    dropped = counts.dropped
    message = PolicyStatus(
        state=_STATES[status.state],
        reason=status.sentence,
        instruction=instruction,
        artifact_id=artifact_id,
        precision=precision,
        inference_count=counts.inferences,
        published_count=counts.published,
        dropped_not_finite_count=dropped[Reason.NOT_FINITE],
        dropped_limit_count=dropped[Reason.POSITION_LIMIT] + dropped[Reason.VELOCITY_LIMIT],
        dropped_start_jump_count=dropped[Reason.START_JUMP],
        dropped_other_count=dropped[Reason.TOO_LATE] + counts.superseded,
        refused_observation_count=counts.refused,
        refused_message_count=refused_messages,
        inference_time_last=duration_message(latencies.last),
        inference_time_p50=duration_message(latencies.percentile(50.0)),
        inference_time_p99=duration_message(latencies.percentile(99.0)),
        observation_age=duration_message(observation_age),
    )
    message.header.stamp = time_message(now)
    return message


_STATES = {state: getattr(PolicyStatus, state.name) for state in State}
