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
BOOL = 'std_msgs/msg/Bool'
POSE = 'geometry_msgs/msg/PoseStamped'
NUMBERS = 'std_msgs/msg/Float64MultiArray'

# Names of inputs that every contract has, and of a twist's numbers.
JOINT_STREAM = 'joint_states'
LANGUAGE_STREAM = 'language'
TWIST_AXES = ('vx', 'vy', 'vz', 'wx', 'wy', 'wz')


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


@dataclass(frozen=True)
class Workspace:
    """A box that the end effector may not leave, in `ActionSpace.frame_id`, and where it is."""

    lower: tuple[float, float, float]  # m
    upper: tuple[float, float, float]
    pose_topic: str  # geometry_msgs/PoseStamped of the end effector


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
    workspace: Workspace | None = None  # TWIST: where the end effector may be

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all action dimensions, in the policy's order."""
        return tuple(name for part in self.parts for name in part.names)


@dataclass(frozen=True)
class JointLimit:
    """Limits of one joint: rad, rad/s, rad/s^2, rad/s^3, or m and so on for a prismatic one.

    Of a twist's axis: of the end effector's displacement along or about it.
    """

    lower: float  # -inf where the joint turns without end
    upper: float
    velocity: float
    unit: str = 'rad'
    acceleration: float | None = None  # None: not limited
    jerk: float | None = None
    continuous: bool = False  # turns without end: positions a whole turn apart are the same


@dataclass(frozen=True)
class Freshness:
    """How old an input may be when a decision is taken, and how far apart inputs may be: s."""

    cameras: float = 0.25
    joint_states: float = 0.15
    state: float = 0.25
    skew: float = 0.1
    frozen: float | None = 0.5  # for which a camera may send the same bytes while the arm moves
    moved: float = 0.05  # rad or m; a joint that is farther off than this has moved


class OutputKind(Enum):
    """How commands reach the arm."""

    TRAJECTORY = 'trajectory'  # the topic of a joint_trajectory_controller
    FOLLOW = 'follow_joint_trajectory'  # its action
    JOINT_JOG = 'servo_joint_jog'  # MoveIt Servo, joint speeds
    TWIST = 'servo_twist'  # MoveIt Servo, end-effector twists


class GripperKind(Enum):
    """How a gripper is told where to go, where not along with the arm."""

    TRAJECTORY = 'trajectory'  # trajectory_msgs/JointTrajectory topic of a controller of its own
    POSITION = 'position'  # std_msgs/Float64MultiArray topic of a forward_command_controller
    COMMAND = 'gripper_command'  # control_msgs/GripperCommand action


@dataclass(frozen=True)
class GripperOutput:
    """Where one gripper's commands go."""

    joint: str
    kind: GripperKind
    name: str  # of the topic or action
    max_effort: float = 0.0  # N; 0 leaves it to the controller
    tolerance: float = 0.0  # rad or m; smaller changes of an action's target are not sent


@dataclass(frozen=True)
class Tolerances:
    """Of a FollowJointTrajectory goal; None leaves them to the controller."""

    path: float | None = None  # rad or m, every joint
    goal: float | None = None
    goal_time: float | None = None  # s


@dataclass(frozen=True)
class Output:
    """What the node sends its commands to; see docs/contract.md."""

    kind: OutputKind = OutputKind.TRAJECTORY
    action: str | None = None  # FOLLOW: name of the action
    tolerances: Tolerances = Tolerances()
    servo: str | None = None  # JOINT_JOG, TWIST: name of Servo's node
    rate: float = 50.0  # Hz, of what goes to Servo
    grippers: tuple[GripperOutput, ...] = ()


@dataclass(frozen=True)
class Safety:
    """What the guard does beyond the limits; see docs/control.md."""

    stretch: float = 1.5  # most times as long as planned that a motion may take; 1: never slower
    not_finite_latch: int = 3  # chunks in a row that are not finite, until the node latches
    rejection_latch: int = 100  # chunks in a row that are dropped for any reason
    emergency_stop: str | None = None  # std_msgs/Bool topic, true: stop


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
    output: Output = Output()
    safety: Safety = Safety()

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of all state dimensions, in the policy's order."""
        extra = tuple(f'{p.name}.{field}' for p in self.state for field in p.fields)
        return self.joint_states.joints + extra
