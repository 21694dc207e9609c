# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a robot offers a policy, as plain frozen data.

Knows names, topics, units and limits; knows nothing of YAML (see `load`), messages or models.
SI units throughout (REP-103): metres, radians, seconds.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
JOINT_STATE = 'sensor_msgs/msg/JointState'
JOINT_TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'
STRING = 'std_msgs/msg/String'


@dataclass(frozen=True)
class Camera:
    """One camera of the robot and the model's slot that it feeds."""

    name: str
    topic: str
    type: str  # IMAGE or COMPRESSED_IMAGE
    slot: str  # the model's feature, e.g. 'observation.images.overhead'
    required: bool = True


@dataclass(frozen=True)
class JointStates:
    """The joint-state topic and the joints that make up the state, in the policy's order."""

    topic: str
    joints: tuple[str, ...]


@dataclass(frozen=True)
class StatePart:
    """A further part of the state, appended after the joints in the order of the file."""

    name: str
    topic: str
    type: str
    fields: tuple[str, ...]  # dotted paths into the message, one number each
    unit: str


@dataclass(frozen=True)
class Language:
    """Where commands come from; `default` holds until the first one arrives."""

    topic: str
    default: str | None = None
    max_length: int = 200  # characters after normalisation


class ActionKind(Enum):
    """What the numbers of one part of the policy's action mean."""

    JOINT_POSITION = 'joint_position'  # absolute joint positions
    JOINT_DELTA = 'joint_delta'  # offsets from the joints measured at the observation
    TWIST = 'twist'  # end-effector twist vx vy vz wx wy wz in `frame_id`
    GRIPPER = 'gripper'  # one number mapped linearly onto one joint's travel


@dataclass(frozen=True)
class ActionPart:
    """A run of consecutive numbers of the policy's action."""

    kind: ActionKind
    names: tuple[str, ...]  # joint names; for TWIST the six axis names
    unit: str
    model_range: tuple[float, float] | None = None  # GRIPPER: model's numbers for (closed, open)
    joint_range: tuple[float, float] | None = None  # GRIPPER: joint's positions for (closed, open)


@dataclass(frozen=True)
class ActionSpace:
    """How the policy's numbers become commands."""

    parts: tuple[ActionPart, ...]
    topic: str  # where commands go (JointTrajectory)
    frame_id: str
    start_tolerance: float  # rad or m: largest |first point - measured| of any joint
    recorded_topic: str | None = None  # the commands in a recorded bag: a JointState topic, or
    # None where bags hold the `topic` above

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all action dimensions, in the policy's order."""
        return tuple(name for part in self.parts for name in part.names)


@dataclass(frozen=True)
class JointLimit:
    """Limits of one joint: rad and rad/s, or m and m/s for a prismatic one."""

    lower: float
    upper: float
    velocity: float
    unit: str = 'rad'


@dataclass(frozen=True)
class Freshness:
    """How old an input may be when a decision is taken, and how far apart inputs may be: s."""

    cameras: float = 0.25
    joint_states: float = 0.15
    state: float = 0.25
    skew: float = 0.1


@dataclass(frozen=True)
class Contract:
    """Everything a policy may rely on about one robot."""

    robot: str
    control_period: float  # s between two actions of a chunk
    cameras: tuple[Camera, ...]
    joint_states: JointStates
    state: tuple[StatePart, ...]
    language: Language
    action: ActionSpace
    limits: dict[str, JointLimit]  # by joint name: every joint the action moves
    freshness: Freshness
    source: str = '<memory>'  # the file it came from, for messages

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of all state dimensions, in the policy's order."""
        extra = tuple(f'{p.name}.{field}' for p in self.state for field in p.fields)
        return self.joint_states.joints + extra
