# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The built-in simulated arm on the topics of a real one, in real time.

Joints are advanced and published at one rate, pictures at another; a JointTrajectory goes through
the simulator's model of joint_trajectory_controller. Commands are listened to only to say, from the
simulator's ground truth, when what was asked for is done.
"""
from __future__ import annotations

from array import array

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from quantvla_ros.nodes.messages import diagnostic, time_message, trajectory_arrays
from quantvla_ros.nodes.parameters import TABLETOP_PARAMETERS, declare, values
from quantvla_ros.sim.tabletop.controller import TrajectoryController
from quantvla_ros.sim.tabletop.kinematics import JOINTS
from quantvla_ros.sim.tabletop.tasks import Task, parse_task
from quantvla_ros.sim.tabletop.world import Tabletop

# As camera drivers and joint_state_broadcaster publish.
_IMAGE_QOS = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1
)
_STATE_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=5
)
EVENT_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
)
FRAME = 'base_link'
_NS = 1_000_000_000
_LOST = _NS // 2  # ns behind the clock beyond which the arm does not catch up but goes on from now


class TabletopNode(Node):
    """See the module.

    Attributes:
        world: the simulated arm; its one thread is the executor's.
    """

    def __init__(self) -> None:
        super().__init__('tabletop')
        declare(self, TABLETOP_PARAMETERS)
        given = values(self, TABLETOP_PARAMETERS)
        self._image_size = int(given['image_size'])
        self._step = round(_NS / float(given['joint_state_rate']))
        self._camera_period = round(_NS / float(given['camera_rate']))
        self.world = Tabletop(int(given['seed']), image_size=self._image_size)
        self._time = self.now()
        self._next_picture = self._time
        self._controller = TrajectoryController(
            JOINTS, self.world.limits, self.world.joint_positions.tolist(), self._time
        )
        self._task: Task | None = None
        self._task_since = 0
        self._done = False

        self._cameras = {
            name: self.create_publisher(Image, f'{name}/image_raw', _IMAGE_QOS)
            for name in ('overhead', 'wrist')
        }
        self._joints = self.create_publisher(JointState, 'joint_states', _STATE_QOS)
        self._events = self.create_publisher(DiagnosticStatus, '~/events', EVENT_QOS)
        self.create_subscription(
            JointTrajectory, 'arm_controller/joint_trajectory', self._on_trajectory, _STATE_QOS
        )
        self.create_subscription(String, 'instruction', self._on_instruction, _STATE_QOS)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_timer(self._step / _NS, self._advance)
        self._announce_scene()

    def now(self) -> int:
        """Time of the node's clock, ns."""
        return self.get_clock().now().nanoseconds

    @property
    def task(self) -> Task | None:
        """What was commanded last and is not done yet."""
        return None if self._done else self._task

    def begin_stop(self) -> bool:
        """Nothing to hold: without the process there is no arm."""
        return True

    def end_stop(self) -> None:
        """Nothing to free."""

    def _advance(self) -> None:
        """Bring the arm to the present, in steps no longer than the period of the joint states."""
        now = self.now()
        if not 0 <= now - self._time < _LOST:
            back = now < self._time
            self._time = self._next_picture = now - self._step
            if back:  # what it was told to do has times that lie ahead again
                self._controller.reset(self.world.joint_positions.tolist(), self._time)
        while self._time < now:
            step = min(self._step, now - self._time)
            self._time += step
            self.world.advance(self._controller.sample(self._time), step / _NS)
        self._publish_joints()
        if self._time >= self._next_picture:
            self._next_picture = max(self._next_picture + self._camera_period, self._time)
            self._publish_pictures()
        self._judge()

    def _publish_joints(self) -> None:
        message = JointState(name=list(JOINTS))
        message.header.stamp = time_message(self._time)
        message.header.frame_id = FRAME
        message.position = self.world.joint_positions.tolist()
        message.velocity = self.world.joint_velocities.tolist()
        self._joints.publish(message)

    def _publish_pictures(self) -> None:
        for name, picture in self.world.render().items():
            height, width, _ = picture.shape
            message = Image(height=height, width=width, encoding='rgb8', step=width * 3)
            message.header.stamp = time_message(self._time)
            message.header.frame_id = f'{name}_optical'
            # An array('B') is taken as it is; anything else would be checked element by element.
            message.data = array('B', np.ascontiguousarray(picture).tobytes())
            self._cameras[name].publish(message)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        try:
            names, times, positions, velocities, stamp = trajectory_arrays(message)
        except ValueError as error:
            self.get_logger().error(f'trajectory refused: its points differ in length ({error})')
            return
        reply = self._controller.accept(
            names, times.tolist(), positions, velocities, stamp, self.now()
        )
        if not reply.accepted:
            self.get_logger().error(f'trajectory refused: {reply}')

    def _on_instruction(self, message: String) -> None:
        task = parse_task(message.data)
        scene = self.world.scene
        cubes, trays = {c.colour for c in scene.cubes}, {t.colour for t in scene.trays}
        if task is None or task.cube not in cubes or task.tray not in {None, *trays}:
            self._task = None
            self._event('unknown', f'not a task of this scene: {message.data!r}')
            return
        self._task, self._task_since, self._done = task, self._time, False
        self._event('commanded', task.instruction)

    def _judge(self) -> None:
        task = self.task
        if task is not None and self.world.succeeded(task):
            self._done = True
            self._event('done', task.instruction)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        seed = int(self.get_parameter('seed').value)
        self.world = Tabletop(seed, image_size=self._image_size)
        self._controller.reset(self.world.joint_positions.tolist(), self._time)
        self._task, self._done = None, False
        response.success = True
        response.message = self._announce_scene()
        return response

    def _announce_scene(self) -> str:
        scene = self.world.scene
        words = (
            f'cubes: {", ".join(c.colour for c in scene.cubes)}; '
            f'trays: {", ".join(t.colour for t in scene.trays)}'
        )
        self._event('reset', words)
        return words

    def _event(self, name: str, message: str) -> None:
        """Publish what happened: `name` is one of reset, commanded, unknown, done."""
        elapsed = (self._time - self._task_since) / _NS if self._task is not None else 0.0
        event = diagnostic(
            DiagnosticStatus.OK if name != 'unknown' else DiagnosticStatus.WARN,
            name, self.get_name(), message,
            {
                'seed': self.get_parameter('seed').value,
                'kind': self._task.kind.name.lower() if self._task is not None else '',
                'time (s)': f'{elapsed:.3f}',
            },
        )
        self._events.publish(event)
        self.get_logger().info(f'{name}: {message}')
