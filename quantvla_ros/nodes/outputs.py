# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the policy node sends: chunks, commands by the way that the contract chose, its status."""
from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from quantvla_ros.contract.types import Contract, OutputKind
from quantvla_ros.control.guard import Reason
from quantvla_ros.control.schedule import Latencies
from quantvla_ros.control.streams import columns
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.msg import ActionChunk, PolicyStatus
from quantvla_ros.nodes.decisions import Sent
from quantvla_ros.nodes.messages import chunk_trajectory, duration_message, time_message
from quantvla_ros.nodes.output import ACKNOWLEDGED, COMMAND_QOS, Output, Surroundings
from quantvla_ros.nodes.output_follow import FollowOutput
from quantvla_ros.nodes.output_gripper import gripper_output
from quantvla_ros.nodes.output_servo import ServoOutput
from quantvla_ros.nodes.output_trajectory import TrajectoryOutput
from quantvla_ros.nodes.states import Counts, State, Status

__all__ = ['ACKNOWLEDGED', 'COMMAND_QOS', 'STATUS_QOS', 'Commands', 'status_message']

STATUS_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
)


def _trajectory(node: LifecycleNode, contract: Contract, around: Surroundings) -> Output:
    return TrajectoryOutput(node, contract.action.topic, contract.action.frame_id)


def _follow(node: LifecycleNode, contract: Contract, around: Surroundings) -> Output:
    return FollowOutput(node, contract.output, contract.action.frame_id, around)


# How an arm is commanded, by what the contract says.
_ARM: dict[OutputKind, Callable[[LifecycleNode, Contract, Surroundings], Output]] = {
    OutputKind.TRAJECTORY: _trajectory,
    OutputKind.FOLLOW: _follow,
    OutputKind.JOINT_JOG: ServoOutput,
    OutputKind.TWIST: ServoOutput,
}


class Commands:
    """All that moves an arm; a `supervisor.Sink` together with `changed`.

    Args:
        node: publishes and calls.
        contract: where commands go, and how.
        artifact_id: what computes the chunks.
        changed: takes status changes.
        around: measured joints, and who wants to know of the other side's refusals.
    Raises:
        ContractError: the chosen output needs a package that is not installed.
    """

    def __init__(
        self,
        node: LifecycleNode,
        contract: Contract,
        artifact_id: str,
        changed: Callable[[Status], None],
        around: Surroundings | None = None,
    ) -> None:
        self._contract, self._artifact_id = contract, artifact_id
        self.changed = changed
        around = around or Surroundings()
        frame, output = contract.action.frame_id, contract.output
        apart = {gripper.joint for gripper in output.grippers}
        self._joints = [name for name in contract.action.names if name not in apart]
        self._arm = _ARM[output.kind](node, contract, around)
        self._grippers: list[Output] = [
            gripper_output(node, gripper, frame, around) for gripper in output.grippers
        ]
        self._node = node
        self._chunks = node.create_lifecycle_publisher(ActionChunk, '~/action_chunk', COMMAND_QOS)

    @property
    def name(self) -> str:
        """Where the arm's commands go."""
        return self._arm.name

    @property
    def arm(self) -> Output:
        """The way to the arm."""
        return self._arm

    @property
    def incompatible(self) -> str:
        """The QoS policy by which a subscriber cannot hear the commands, '' where all can."""
        return getattr(self._arm, 'incompatible', '')

    def fits(self) -> None:
        """Those that could not hear the commands are gone."""
        if isinstance(self._arm, TrajectoryOutput):
            self._arm.incompatible = self._arm.problem = ''

    @property
    def problems(self) -> list[str]:
        """What is wrong with arm and grippers, in words."""
        return [
            f'{output.name}: {output.problem}' for output in self._outputs if output.problem
        ]

    def facts(self) -> dict[str, object]:
        """Further numbers for /diagnostics."""
        return {key: value for output in self._outputs for key, value in output.facts().items()}

    def chunk(self, sent: Sent) -> None:
        """Send what is left of a chunk to the controller, and publish it whole."""
        # The controller first: it is the one in a hurry.
        self._arm.send(self._of_arm(sent.points))
        for gripper in self._grippers:
            gripper.send(sent.points)
        message = ActionChunk(
            sequence=sent.work.sequence,
            instruction=sent.work.observation.instruction,
            artifact_id=self._artifact_id,
            joint_names=list(sent.chunk.joints),
            trajectory=chunk_trajectory(sent.chunk, self._contract.action.frame_id),
            control_period=duration_message(sent.chunk.period),
            observation_age=duration_message(sent.work.age),
            inference_time=duration_message(sent.inference_time),
        )
        message.header = message.trajectory.header
        self._chunks.publish(message)

    def hold(self, points: Trajectory) -> None:
        """Send a hold."""
        self._arm.hold(self._of_arm(points))
        for gripper in self._grippers:
            gripper.hold(points)

    def wait_until_received(self) -> None:
        """Give the last command time to arrive, before its sender goes."""
        for output in self._outputs:
            output.wait_until_received()

    def controllers(self) -> int:
        """Who takes the commands of the arm."""
        return self._arm.listeners()

    def rivals(self) -> int:
        """Who else sends such commands."""
        return self._arm.rivals()

    def close(self) -> None:
        """Free everything."""
        for output in self._outputs:
            output.close()
        self._node.destroy_lifecycle_publisher(self._chunks)

    @property
    def _outputs(self) -> list[Output]:
        return [self._arm, *self._grippers]

    def _of_arm(self, points: Trajectory) -> Trajectory:
        return columns(points, self._joints) if self._grippers else points


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
        dropped_limit_count=sum(dropped[reason] for reason in _LIMITS),
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


_LIMITS = (
    Reason.POSITION_LIMIT, Reason.VELOCITY_LIMIT, Reason.ACCELERATION_LIMIT, Reason.JERK_LIMIT,
    Reason.WORKSPACE,
)
_STATES = {state: getattr(PolicyStatus, state.name) for state in State}
