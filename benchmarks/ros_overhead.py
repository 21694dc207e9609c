# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node adds to an inference: image in to chunk out, minus the inference.

    python benchmarks/ros_overhead.py --out benchmarks/results/ros_overhead.json

Three processes on real topics: one publishes two 640x480 raw cameras at 30 Hz and joint states at
100 Hz, one is the policy node with a policy of known duration in place of a network, and this one
receives the chunks. Counted is the time from the stamp of the newest picture a chunk rests on,
taken just before it is published, to the arrival of the chunk here, minus the time in the policy:
both ways over the middleware are in it. Once with a policy that waits, as for a GPU, and once with
one that computes on a core of this machine.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from pathlib import Path
from types import SimpleNamespace

# The policy that computes does so on one core: before NumPy reads it.
for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[_name] = '1'

import numpy as np  # noqa: E402

from quantvla_ros.engine.running import Running  # noqa: E402

WIDTH, HEIGHT, RATE, JOINT_RATE = 640, 480, 30.0, 100.0
JOINTS = ('a', 'b', 'c', 'd', 'e', 'f')
INFERENCE = 0.015  # s
ROWS = 16
SKIPPED = 30  # first chunks, while discovery and caches settle

CONTRACT = f"""
contract: 1
robot: overhead_benchmark
control_period: {1.0 / RATE}
cameras:
  left: {{topic: left/image_raw, type: sensor_msgs/msg/Image, slot: observation.images.left}}
  right: {{topic: right/image_raw, type: sensor_msgs/msg/Image, slot: observation.images.right}}
joint_states: {{topic: joint_states, joints: [{', '.join(JOINTS)}]}}
language: {{topic: instruction, default: stand still}}
action:
  topic: commands
  frame_id: base_link
  start_tolerance: 0.3
  parts: [{{kind: joint_position, names: [{', '.join(JOINTS)}], unit: rad}}]
limits: {{{', '.join(f'{j}: {{lower: -3.0, upper: 3.0, velocity: 2.0}}' for j in JOINTS)}}}
"""


class KnownPolicy:
    """Takes a known time and asks the arm to stand still."""

    def __init__(self, computes: bool) -> None:
        self._computes = computes
        self._matrix = np.ones((256, 256), np.float32)
        self.runs: list[dict[str, int]] = []
        self.info = SimpleNamespace(
            artifact_id='known', precision='none', slots=('observation.images.left',
            'observation.images.right'), state_size=len(JOINTS), action_size=len(JOINTS),
            chunk_size=ROWS, execute_steps=1, weight_bytes=0, float_bytes=0, state_names=JOINTS,
            action_names=JOINTS, control_period=None,
        )
        self.running = Running('plain', 'cpu')

    def warm_up(self) -> None:
        """Nothing to warm."""

    def infer(self, observation, *, seed=None) -> np.ndarray:
        """Wait, or multiply matrices without the interpreter's lock, as a network does."""
        begun = time.time_ns()
        if self._computes:
            while time.time_ns() - begun < INFERENCE * 1e9:
                self._matrix @ self._matrix
        else:
            time.sleep(INFERENCE)
        pictures = max(observation.stamps['left'], observation.stamps['right'])
        self.runs.append(
            {'stamp': observation.stamp, 'picture': pictures, 'begun': begun,
             'ended': time.time_ns()}
        )
        return np.tile(observation.state, (ROWS, 1))


def node_role(folder: Path, computes: bool) -> int:
    """The policy node, with the known policy."""
    from quantvla_ros.nodes.process import StopSignal, run

    stop = StopSignal()
    policy = KnownPolicy(computes)

    def nodes():
        from quantvla_ros.nodes.policy import PolicyNode

        return [PolicyNode(load_policy=lambda path, **options: policy)]

    contract = folder / 'contract.yaml'
    arguments = ['--ros-args', '-p', 'policy:=known', '-p', f'contract:={contract}']
    status = run(nodes, arguments, stop)
    (folder / 'runs.json').write_text(json.dumps(policy.runs))
    return status


def camera_role() -> int:
    """Two cameras and an arm's joint states."""
    import rclpy
    from rclpy.node import Node
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image, JointState

    from quantvla_ros.nodes.messages import time_message

    rclpy.init()
    node = Node('robot')
    best_effort = QoSProfile(
        reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1
    )
    cameras = {n: node.create_publisher(Image, f'{n}/image_raw', best_effort)
               for n in ('left', 'right')}
    joints = node.create_publisher(JointState, 'joint_states', 5)
    data = array('B', np.random.default_rng(0).bytes(WIDTH * HEIGHT * 3))

    def pictures() -> None:
        for publisher in cameras.values():
            image = Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=WIDTH * 3, data=data)
            image.header.stamp = time_message(time.time_ns())
            publisher.publish(image)

    def states() -> None:
        message = JointState(name=list(JOINTS), position=[0.1] * len(JOINTS),
                             velocity=[0.0] * len(JOINTS))
        message.header.stamp = time_message(time.time_ns())
        joints.publish(message)

    node.create_timer(1.0 / RATE, pictures)
    node.create_timer(1.0 / JOINT_RATE, states)
    try:
        rclpy.spin(node)
    except BaseException:  # any signal ends it
        return 0
    return 0


def measure(seconds: float, computes: bool) -> dict[str, object]:
    """One run: overhead of every chunk, in ms."""
    import rclpy
    from lifecycle_msgs.srv import ChangeState
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node

    from quantvla_ros.msg import ActionChunk, PolicyStatus
    from quantvla_ros.nodes.outputs import COMMAND_QOS, STATUS_QOS
    from quantvla_ros.observation.messages import nanoseconds

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'contract.yaml').write_text(CONTRACT)
        me = [sys.executable, __file__]
        load = ['--computes'] if computes else []
        node_process = subprocess.Popen([*me, '--role', 'node', '--folder', name, *load])
        camera_process = subprocess.Popen([*me, '--role', 'camera'])
        rclpy.init()
        node = Node('listener')
        arrived: dict[int, int] = {}
        statuses: list[PolicyStatus] = []
        node.create_subscription(
            ActionChunk, 'policy/action_chunk',
            lambda m: arrived.setdefault(nanoseconds(m.header.stamp), time.time_ns()), COMMAND_QOS,
        )
        node.create_subscription(PolicyStatus, 'policy/status', statuses.append, STATUS_QOS)
        client = node.create_client(ChangeState, 'policy/change_state')
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        spinning = threading.Event()
        thread = threading.Thread(
            target=lambda: [executor.spin_once(0.2) for _ in iter(spinning.is_set, True)]
        )
        thread.start()
        try:
            if not client.wait_for_service(30.0):
                raise SystemExit('the policy node did not come up')
            for transition in (1, 3):  # configure, activate
                request = ChangeState.Request()
                request.transition.id = transition
                future = client.call_async(request)
                while not future.done():
                    time.sleep(0.01)
                if not future.result().success:
                    raise SystemExit('the policy node refused a transition')
            time.sleep(seconds)
        finally:
            for process in (node_process, camera_process):
                process.send_signal(2)
            for process in (node_process, camera_process):
                process.wait(20)
            spinning.set()
            thread.join()
            rclpy.shutdown()
        runs = {run['stamp']: run for run in json.loads((folder / 'runs.json').read_text())}
    parts = np.array([
        (run['begun'] - run['picture'], arrived[stamp] - run['ended'])
        for stamp, run in sorted(runs.items()) if stamp in arrived
    ][SKIPPED:]) * 1e-6
    if len(parts) < 100:
        raise SystemExit(
            f'expected over 100 chunks, found {len(parts)}; the node says: '
            f'{statuses[-1].reason if statuses else "nothing"}'
        )
    overhead = parts.sum(axis=1)
    return {
        'chunks': len(overhead),
        'chunks_per_second': round((len(overhead) + SKIPPED) / seconds, 1),
        **{f'p{p}_ms': _percentile(overhead, p) for p in (50, 90, 99, 100)},
        'picture_to_inference_ms': {f'p{p}': _percentile(parts[:, 0], p) for p in (50, 99)},
        'inference_to_chunk_ms': {f'p{p}': _percentile(parts[:, 1], p) for p in (50, 99)},
    }


def main() -> int:
    """Measure both, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, help='JSON file')
    parser.add_argument('--seconds', type=float, default=30.0)
    parser.add_argument('--role', choices=('node', 'camera'), help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--computes', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role == 'node':
        return node_role(args.folder, args.computes)
    if args.role == 'camera':
        return camera_role()
    os.environ.setdefault('ROS_DOMAIN_ID', '97')
    import rclpy.utilities

    results = {}
    for title, computes in (('policy waits', False), ('policy computes', True)):
        results[title] = measure(args.seconds, computes)
        numbers = results[title]
        print(
            f'{title}: p50 {numbers["p50_ms"]:.2f} ms, p99 {numbers["p99_ms"]:.2f} ms, '
            f'{numbers["chunks"]} chunks, {numbers["chunks_per_second"]:.1f} a second; picture to '
            f'inference {numbers["picture_to_inference_ms"]}, inference to chunk '
            f'{numbers["inference_to_chunk_ms"]}'
        )
    report = {
        'what': 'newest picture published to chunk received, minus the inference',
        'cameras': f'2 x {WIDTH}x{HEIGHT} rgb8 at {RATE:g} Hz, best effort',
        'joint_states_hz': JOINT_RATE,
        'inference_ms': INFERENCE * 1e3,
        'results': results,
        'date': datetime.date.today().isoformat(),
        'machine': {
            'cores': len(os.sched_getaffinity(0)), 'processor': _processor(),
            'system': platform.platform(),
        },
        'versions': {
            'python': platform.python_version(), 'numpy': np.__version__,
            'ros_distro': os.environ.get('ROS_DISTRO', ''),
            'rmw': rclpy.utilities.get_rmw_implementation_identifier(),
            'fastdds_profile': Path(os.environ.get('FASTDDS_DEFAULT_PROFILES_FILE', '')).name,
        },
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + '\n')
    return 0


def _percentile(values: np.ndarray, percent: int) -> float:
    return round(float(np.percentile(values, percent)), 2)


def _processor() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor()


if __name__ == '__main__':
    sys.exit(main())
