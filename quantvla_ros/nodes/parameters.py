# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node parameters as one table: what is declared, what is checked, what the docs say.

`python -m quantvla_ros.nodes.parameters` prints the table of docs/node.md. Needs rclpy only to
declare.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.node import Node

Value = str | int | float | bool


@dataclass(frozen=True)
class Parameter:
    """One parameter of a node.

    Attributes:
        name, default, description: as declared.
        range: smallest and largest allowed value of a number.
        read_only: fixed once the node has started.
    """

    name: str
    default: Value
    description: str
    range: tuple[float, float] | None = None
    read_only: bool = False

    @property
    def type(self) -> str:
        """Name of the type, as ROS calls it."""
        return {str: 'string', int: 'integer', float: 'double', bool: 'bool'}[type(self.default)]


POLICY_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        'policy', '',
        'Directory of a quantized artifact or a float checkpoint; a relative path starts in the '
        'working directory of the process.',
        read_only=True,
    ),
    Parameter(
        'contract', '',
        'Contract file (.yaml): what the robot offers the policy.',
        read_only=True,
    ),
    Parameter(
        'device', 'cpu',
        'Where the policy runs: cpu, cuda or cuda:N.',
        read_only=True,
    ),
    Parameter(
        'precision', '',
        "Precision to run in, by name; empty for the policy's own.",
        read_only=True,
    ),
    Parameter(
        'engine', 'auto',
        "What runs the network: graph (our kernels in CUDA graphs), plain (PyTorch's operations) "
        'or auto (graph on a GPU, plain on a CPU).',
        read_only=True,
    ),
    Parameter(
        'prompt_lengths', '',
        'Prompt lengths that the engine is prepared for, in tokens with commas between them (one '
        "alone in quotes); empty for some up to the policy's longest. Fewer start faster and take "
        'less memory.',
        read_only=True,
    ),
    Parameter(
        'allow_fallback', False,
        'Where engine, precision or device do not run here, run what comes next best and say so; '
        'otherwise configuring fails.',
        read_only=True,
    ),
    Parameter(
        'threads', 0,
        "Threads of an inference on the CPU; 0 for torch's own choice.",
        (0, 256),
        read_only=True,
    ),
    Parameter(
        'robot_description', '',
        'URDF of the robot, as robot_state_publisher has it: its limits narrow those of the '
        'contract.',
        read_only=True,
    ),
    Parameter(
        'joint_limits', '',
        "MoveIt's joint_limits.yaml: its limits narrow those of the contract.",
        read_only=True,
    ),
    Parameter(
        'shadow_artifact', '',
        'Directory of a second policy that infers the same in the time that the first one leaves, '
        'for how far it is from that; nothing of it is ever sent. Empty for none.',
        read_only=True,
    ),
    Parameter(
        'record_to', '',
        'Folder in which each configure begins a bag of all that the node receives, infers and '
        'sends, for `replay`; empty for none.',
        read_only=True,
    ),
    Parameter(
        'limit_share', 1.0,
        'Share of the velocity, acceleration and jerk limits that is used, as for a slow first '
        'run. While the node is active it can only be lowered.',
        (0.01, 1.0),
    ),
    Parameter(
        'seed', 0,
        'Seed of the noise that an action starts from; with the stamp of the observation it gives '
        'the same chunk for the same inputs. -1 draws fresh noise every time.',
        (-1, 2**31 - 1),
    ),
    Parameter(
        'schedule', 'async',
        'How chunks follow each other: sync (the arm stands while the policy thinks), async (the '
        'next one is inferred while the last one runs), ensemble (one at every period, rows for '
        'one instant averaged) or rtc (as async, and drawn to what still runs of the last one).',
        read_only=True,
    ),
    Parameter(
        'latency_percentile', 95.0,
        'Percentile of the measured delays from observation to chunk that a chunk must still last '
        'when the next inference begins.',
        (50.0, 100.0),
    ),
    Parameter(
        'latency_margin', 0.05,
        'Seconds on top of that percentile.',
        (0.0, 2.0),
    ),
    Parameter(
        'ensemble_decay', 0.01,
        'm of the weights exp(-m i) of an ensemble, i = 0 for the oldest chunk.',
        (0.0, 10.0),
    ),
    Parameter(
        'ensemble_chunks', 8,
        'Chunks that an ensemble averages at most.',
        (1, 64),
    ),
    Parameter(
        'execute_steps', 0,
        "Control periods of a chunk to run before the next look; 0 for the policy's own number. "
        'Fewer react faster and cost more inferences. Shortened by itself where inference is slow.',
        (0, 1000),
    ),
    Parameter(
        'hold_time', 0.3,
        'Seconds in which a hold brings the arm to rest, at constant deceleration.',
        (0.05, 2.0),
    ),
    Parameter(
        'recovery_time', 0.5,
        'Seconds for which the inputs must be healthy again before the arm moves on after a hold.',
        (0.0, 60.0),
    ),
    Parameter(
        'clock_timeout', 1.0,
        'Seconds, by a steady clock, that the clock of the node may stand still before the arm is '
        'held.',
        (0.1, 60.0),
    ),
    Parameter(
        'controller_timeout', 1.0,
        'Seconds that a controller, once there, may be away before the arm is held.',
        (0.1, 60.0),
    ),
    Parameter(
        'inference_timeout', 5.0,
        'Seconds that an inference may take before it is called stuck. The arm has come to rest at '
        'the end of its chunk by then.',
        (0.1, 600.0),
    ),
)

TABLETOP_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        'seed', 0,
        'Seed of the scene; takes effect at the next ~/reset.',
        (0, 2**31 - 1),
    ),
    Parameter(
        'image_size', 224,
        'Side of both cameras\' pictures in pixels.',
        (32, 1024),
        read_only=True,
    ),
    Parameter(
        'camera_rate', 20.0,
        'Pictures per second of both cameras.',
        (1.0, 60.0),
        read_only=True,
    ),
    Parameter(
        'joint_state_rate', 100.0,
        'Joint states per second; the arm is advanced as often.',
        (20.0, 500.0),
        read_only=True,
    ),
    Parameter(
        'expert', False,
        'Let the scripted expert drive the arm on each instruction, over the same topic as a '
        'policy would: for recording.',
        read_only=True,
    ),
)


def declare(node: Node, parameters: Sequence[Parameter]) -> None:
    """Declare all of them with descriptors, so that tools show what each is for.

    Raises:
        rclpy's parameter exceptions: a value given at start is of the wrong type or out of range.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    for parameter in parameters:
        descriptor = ParameterDescriptor(
            description=parameter.description, read_only=parameter.read_only
        )
        if parameter.range is not None:
            lower, upper = parameter.range
            if isinstance(parameter.default, int):
                descriptor.integer_range = [
                    IntegerRange(from_value=int(lower), to_value=int(upper), step=1)
                ]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(lower), to_value=float(upper), step=0.0)
                ]
        if not node.has_parameter(parameter.name):
            node.declare_parameter(parameter.name, parameter.default, descriptor)


def values(node: Node, parameters: Sequence[Parameter]) -> dict[str, Value]:
    """The present value of each, by name."""
    return {p.name: node.get_parameter(p.name).value for p in parameters}


def markdown(parameters: Sequence[Parameter]) -> str:
    """The table for the documentation."""
    lines = [
        '| parameter | type | default | range | fixed at start | what it is |',
        '|---|---|---|---|---|---|',
    ]
    for p in parameters:
        bounds = '' if p.range is None else f'{p.range[0]} to {p.range[1]}'
        default = {'': "''", 'False': 'false', 'True': 'true'}.get(str(p.default), p.default)
        fixed = 'yes' if p.read_only else ''
        lines.append(
            f'| `{p.name}` | {p.type} | {default} | {bounds} | {fixed} | {p.description} |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    import sys

    sys.stdout.write(
        f'### `policy`\n\n{markdown(POLICY_PARAMETERS)}\n\n'
        f'### `tabletop`\n\n{markdown(TABLETOP_PARAMETERS)}\n'
    )
