# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node's record of itself: what it received, inferred and sent, into a bag.

A thread of its own packs and writes; what it cannot keep up with is left out and counted, and a
disk that fails ends the recording, not the policy. `observation.recording` reads it again. Written
with the rosbags library; knows nothing of rclpy.
"""
from __future__ import annotations

import collections
import contextlib
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from quantvla_ros.contract.types import (
    JOINT_STATE,
    JOINT_STREAM,
    JOINT_TRAJECTORY,
    LANGUAGE_STREAM,
    STRING,
    Contract,
)
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.errors import BagError
from quantvla_ros.nodes.decisions import Sent, Sink, Work
from quantvla_ros.nodes.share import share
from quantvla_ros.nodes.states import Status
from quantvla_ros.observation.recording import INFERENCE, RECORDING, Conditions
from quantvla_ros.observation.selection import TIME_JUMP_NS

_NS = 1_000_000_000
_BACKLOG = 1 << 28  # bytes of messages that may wait to be written


class Logger(Protocol):
    """What a recording needs of a logger."""

    def error(self, message: str) -> None:
        """Log."""


@dataclass(frozen=True)
class Stream:
    """An input: its name in the contract, its topic by full name, its type."""

    name: str
    topic: str
    type: str


@dataclass(frozen=True)
class _Item:
    """One message to write: its bytes, or what makes them in the writing thread."""

    connection: Connection
    time: int
    data: bytes | Callable[[], bytes]

    @property
    def size(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else 0


class Recording:
    """See the module. All methods but `close` return at once; from any thread.

    Args:
        path: folder of the bag; must not exist.
        name: of the node, by full name: its own topics begin with it.
        streams: inputs.
        conditions: what runs.
        contract: text of the contract file.
        frame_id: of the commands.
        now: the node's clock, ns.
        logger: told once where writing fails.
    Raises:
        BagError: there can be no bag at that place.

    Attributes:
        path: folder of the bag.
        written: messages so far.
        lost: messages that were left out.
        problem: why the recording ended early; '' where it did not.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        streams: list[Stream],
        conditions: Conditions,
        contract: str,
        *,
        frame_id: str,
        now: Callable[[], int],
        logger: Logger,
    ) -> None:
        self.path, self._frame, self._now, self._logger = path, frame_id, now, logger
        self._conditions = conditions
        self.written = self.lost = 0
        self.problem = ''
        self._store = get_typestore(Stores.ROS2_KILTED)
        for kind in (RECORDING, INFERENCE):
            text = share(f'msg/{kind.rpartition("/")[2]}.msg').read_text(encoding='utf-8')
            self._store.register(get_types_from_msg(text, kind))
        self._types: Mapping[str, Any] = self._store.types
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(
                f'record_to: expected a folder in which a bag can be made, found {path.parent} '
                f'({error}); choose another one'
            ) from None
        self._inputs: dict[str, Connection] = {}
        for stream in streams:
            if stream.topic not in self._inputs:
                self._inputs[stream.topic] = self._connect(stream.topic, stream.type)
        self._inference = self._connect(f'{name}/inference', INFERENCE)
        self._hold = self._connect(f'{name}/hold', JOINT_TRAJECTORY)
        self._lock = threading.Condition(threading.RLock())
        self._queue: collections.deque[_Item] = collections.deque()
        self._waiting = 0  # bytes in the queue
        # ns; a bag's times never go back: after a clock that did they only keep the order.
        self._last, self._back = now(), False
        self._closing = False
        self._sent: tuple[Work, Trajectory] | None = None
        begun = self._last
        self._put(self._connect(f'{name}/recording', RECORDING), begun, lambda: self._pack(
            RECORDING, header=self._header(begun), contract=contract,
            streams=[stream.name for stream in streams],
            topics=[stream.topic for stream in streams], **vars(conditions),
        ))
        self._thread = threading.Thread(target=self._write, name='recording', daemon=True)
        self._thread.start()

    def heard(self, topic: str, data: bytes, received: int) -> None:
        """A message arrived: its topic's full name, its bytes, ns."""
        with self._lock:
            self._back = received < self._last - TIME_JUMP_NS
            self._last = self._last + 1 if self._back else max(self._last, received)
            self._put(self._inputs[topic], self._last, bytes(data))

    def sent(self, sent: Sent) -> None:
        """A chunk was sent; its inference follows in `inferred`."""
        self._sent = sent.work, sent.points

    def held(self, points: Trajectory) -> None:
        """A hold was sent."""
        with self._lock:
            self._put(self._hold, self._after(), lambda: self._store.serialize_cdr(
                self._trajectory(points), JOINT_TRAJECTORY
            ).tobytes())

    def inferred(
        self, work: Work, seed: int, raw: np.ndarray, seconds: float, outcome: str
    ) -> None:
        """An inference ended; `outcome` is the node's sentence where nothing of it was sent."""
        sent, self._sent = self._sent, None
        points = sent[1] if sent is not None and sent[0] is work else None
        numbers = np.array(raw, np.float32)  # a copy: it is packed later
        with self._lock:
            self._put(self._inference, self._after(), lambda: self._pack_inference(
                work, seed, numbers, seconds, points, '' if points is not None else outcome
            ))

    def facts(self) -> dict[str, object]:
        """For /diagnostics."""
        return {'bag': self.path, 'messages': self.written, 'left out': self.lost}

    def close(self) -> None:
        """Write what waits and finish the bag."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def _after(self) -> int:
        """A time after all that has been heard, and not later than what is heard next."""
        if self._back:
            self._last += 1
        return self._last + 1

    def _put(
        self, connection: Connection, time: int, data: bytes | Callable[[], bytes]
    ) -> None:
        item = _Item(connection, time, data)
        with self._lock:
            if self._closing or self.problem:
                return
            if self._waiting + item.size > _BACKLOG:
                self.lost += 1
                return
            self._waiting += item.size
            self._queue.append(item)
            self._lock.notify()

    def _write(self) -> None:
        try:
            while True:
                with self._lock:
                    while not self._queue and not self._closing:
                        self._lock.wait()
                    if not self._queue:
                        break
                    item = self._queue.popleft()
                    self._waiting -= item.size
                data = item.data if isinstance(item.data, bytes) else item.data()
                self._writer.write(item.connection, item.time, data)
                self.written += 1
            self._writer.close()
        except Exception as error:  # the policy goes on without its recording, and says so
            with self._lock:
                self.problem = f'the recording ended: {type(error).__name__}: {error}'
                self._queue.clear()
                self._waiting = 0
            self._logger.error(f'{self.path}: {self.problem}')

    def _connect(self, topic: str, kind: str) -> Connection:
        return self._writer.add_connection(topic, kind, typestore=self._store)

    def _pack(self, kind: str, **fields: Any) -> bytes:
        return self._store.serialize_cdr(self._types[kind](**fields), kind).tobytes()

    def _pack_inference(
        self, work: Work, seed: int, raw: np.ndarray, seconds: float, points: Trajectory | None,
        outcome: str,
    ) -> bytes:
        observation, guidance = work.observation, work.guidance
        none = np.zeros(0, np.float64)
        return self._pack(
            INFERENCE,
            header=self._header(observation.stamp),
            sequence=work.sequence,
            begun=self._time(work.begun),
            streams=list(observation.stamps),
            stamps=[self._time(stamp) for stamp in observation.stamps.values()],
            instruction=observation.instruction,
            seed=seed,
            artifact_id=self._conditions.artifact_id,
            device=self._conditions.device,
            rows=len(raw),
            chunk=raw.reshape(-1),
            guidance=none if guidance is None else np.asarray(
                guidance.actions, np.float64).reshape(-1),
            guidance_weights=none if guidance is None else np.asarray(
                guidance.weights, np.float64),
            sent=self._trajectory(points),
            outcome=outcome,
            inference_time=self._duration(seconds),
        )

    def _trajectory(self, points: Trajectory | None) -> Any:
        kind = self._types['trajectory_msgs/msg/JointTrajectoryPoint']
        none = np.zeros(0, np.float64)
        stamp = 0 if points is None else points.stamp
        return self._types[JOINT_TRAJECTORY](
            header=self._header(stamp),
            joint_names=[] if points is None else list(points.joints),
            points=[] if points is None else [
                kind(
                    positions=np.asarray(position, np.float64),
                    velocities=np.asarray(velocity, np.float64),
                    accelerations=none, effort=none,
                    time_from_start=self._duration(float(time)),
                )
                for time, position, velocity in zip(
                    points.times, points.positions, points.velocities, strict=True
                )
            ],
        )

    def _header(self, stamp: int) -> Any:
        return self._types['std_msgs/msg/Header'](stamp=self._time(stamp), frame_id=self._frame)

    def _time(self, nanoseconds: int) -> Any:
        return self._types['builtin_interfaces/msg/Time'](
            sec=nanoseconds // _NS, nanosec=nanoseconds % _NS
        )

    def _duration(self, seconds: float) -> Any:
        nanoseconds = round(seconds * _NS)
        return self._types['builtin_interfaces/msg/Duration'](
            sec=nanoseconds // _NS, nanosec=nanoseconds % _NS
        )


class RecordedSink:
    """What the supervisor decides, to be carried out and recorded.

    Args:
        sink: carries it out.
        recording: is told.
    """

    def __init__(self, sink: Sink, recording: Recording) -> None:
        self._sink, self._recording = sink, recording

    def chunk(self, sent: Sent) -> None:
        """Send a chunk."""
        self._sink.chunk(sent)
        self._recording.sent(sent)

    def hold(self, points: Trajectory) -> None:
        """Send a hold."""
        self._sink.hold(points)
        self._recording.held(points)

    def changed(self, status: Status) -> None:
        """State, cause or detail changed."""
        self._sink.changed(status)


def new_bag(folder: str, name: str) -> Path:
    """A path below `folder` for a bag that begins now, as rosbag2 names them."""
    stem = f'{name}_{time.strftime("%Y_%m_%d-%H_%M_%S")}'
    path, count = Path(folder) / stem, 1
    while path.exists():
        count += 1
        path = Path(folder) / f'{stem}_{count}'
    return path


def streams_of(contract: Contract, resolve: Callable[[str], str]) -> list[Stream]:
    """All inputs of a contract.

    Args:
        resolve: a topic's full name.
    """
    found = [(camera.name, camera.topic, camera.type) for camera in contract.cameras]
    found.append((JOINT_STREAM, contract.joint_states.topic, JOINT_STATE))
    found += [(part.name, part.topic, part.type) for part in contract.state]
    found.append((LANGUAGE_STREAM, contract.language.topic, STRING))
    return [Stream(name, resolve(topic), kind) for name, topic, kind in found]


def conditions_of(
    policy: Any, *, path: str, contract_path: str, prompt_lengths: str
) -> Conditions:
    """What a loaded policy runs with."""
    info, running = policy.info, policy.running
    torch = sys.modules.get('torch')
    return Conditions(
        policy=path,
        contract_path=contract_path,
        prompt_lengths=prompt_lengths,
        artifact_id=info.artifact_id,
        precision=info.precision,
        engine=running.engine,
        device=running.device,
        device_name=_device_name(running.device, torch),
        torch='' if torch is None else str(torch.__version__),
        threads=0 if torch is None else torch.get_num_threads(),
    )


def _device_name(device: str, torch: Any) -> str:
    """Of the GPU, or of the processor."""
    if torch is not None and torch.cuda.is_initialized() and device.startswith('cuda'):
        return str(torch.cuda.get_device_name(device))
    with contextlib.suppress(OSError):  # no Linux
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.machine()
