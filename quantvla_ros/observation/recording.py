# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a policy node recorded of itself (parameter `record_to`): each inference with its inputs.

The messages of the bag are those the node received, and an inference names those that its
observation was made of; `ObservationBuffer` makes it of them again. Knows bags and the contract;
knows nothing of models, nor of what a chunk was drawn to.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from quantvla_ros.contract.load import parse_contract
from quantvla_ros.contract.types import LANGUAGE_STREAM, Contract
from quantvla_ros.errors import BagError
from quantvla_ros.observation.bags import Bag, BagHealth, Recorded
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.messages import nanoseconds
from quantvla_ros.observation.types import Observation, Refusal

RECORDING = 'quantvla_ros/msg/Recording'
INFERENCE = 'quantvla_ros/msg/Inference'


@dataclass(frozen=True)
class Conditions:
    """What a recording was made with; see Recording.msg."""

    policy: str
    contract_path: str
    prompt_lengths: str
    artifact_id: str
    precision: str
    engine: str
    device: str
    device_name: str
    torch: str
    threads: int


@dataclass(frozen=True)
class Inference:
    """One inference; see Inference.msg.

    Attributes:
        index: from 0, in the order of the bag.
        sequence: the node's number of it.
        stamp: ns; of the observation.
        seed: of the noise.
        artifact_id, device: of what computed it.
        chunk: [rows, action] float32 that the policy returned.
        guidance: [rows, action] and [rows], what the chunk was drawn to and how hard, if it was.
        outcome: why nothing was sent; '' where it was.
        observation: as the policy saw it; None where `lacking` says what of it is missing.
        lacking: '' where nothing is.
    """

    index: int
    sequence: int
    stamp: int
    seed: int
    artifact_id: str
    device: str
    chunk: np.ndarray
    guidance: tuple[np.ndarray, np.ndarray] | None
    outcome: str
    observation: Observation | None
    lacking: str = ''


class RecordedPolicy:
    """A bag of a policy node, opened for reading; use it in a with statement.

    Attributes:
        conditions: what it was recorded with.
        contract: the one it was recorded with.
        count: inferences in it.
    """

    def __init__(self, path: str | Path) -> None:
        """Open it.

        Raises:
            BagError: it cannot be read, or no policy node recorded it.
            ContractError: the recorded contract is not one that this version reads.
        """
        self._bag = Bag(path)
        try:
            first = next(iter(self._bag.messages([self._topic(RECORDING)])), None)
            if first is None:
                raise BagError(
                    f'{path}: expected a {RECORDING}, found none that can be read; record again'
                )
            made = first.message
            self.conditions = Conditions(
                **{name: getattr(made, name) for name in Conditions.__dataclass_fields__}
            )
            self.contract = parse_contract(made.contract, made.contract_path)
            self._streams: dict[str, list[str]] = {}
            for stream, topic in zip(made.streams, made.topics, strict=True):
                self._streams.setdefault(topic, []).append(stream)
            self._inferences = self._topic(INFERENCE)
            self.count = self._bag.topics[self._inferences].count
        except BaseException:
            self._bag.close()
            raise

    def __enter__(self) -> RecordedPolicy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bag.close()

    @property
    def health(self) -> BagHealth:
        """How whole the bag was found."""
        return self._bag.health

    def inferences(self, contract: Contract | None = None) -> Iterator[Inference]:
        """All of them in order, with their observations.

        Args:
            contract: to make the observations by; the recorded one by default.
        """
        needed = {
            key for recorded in self._bag.messages([self._inferences])
            for key in _parts(recorded.message)
        }
        contract = contract or self.contract
        # Judges, as it did live, which of two messages with one stamp counts.
        judge = ObservationBuffer(contract)
        kept: dict[tuple[str, int], Recorded] = {}
        index = 0
        for recorded in self._bag.messages([self._inferences, *self._streams]):
            if recorded.topic == self._inferences:
                yield _inference(index, recorded.message, contract, kept)
                index += 1
                continue
            for stream in self._streams[recorded.topic]:
                if judge.store(stream, recorded.message, recorded.time) is None:
                    stamp = judge.newest(stream)
                    if stamp is not None and (stream, stamp) in needed:
                        kept[stream, stamp] = recorded

    def _topic(self, kind: str) -> str:
        """The topic of this type."""
        for name, topic in self._bag.topics.items():
            if topic.type == kind:
                return name
        raise BagError(
            f'{self._bag.path}: expected a recording of the policy node, found no {kind} among '
            f'{", ".join(self._bag.topics) or "no topics"}; record with the node\'s parameter '
            'record_to'
        )


def _parts(message: Any) -> list[tuple[str, int]]:
    """(stream, stamp) of all that an inference's observation was made of, its command apart."""
    return [
        (stream, nanoseconds(stamp))
        for stream, stamp in zip(message.streams, message.stamps, strict=True)
        if stream != LANGUAGE_STREAM
    ]


def _inference(
    index: int, message: Any, contract: Contract, kept: dict[tuple[str, int], Recorded]
) -> Inference:
    parts = _parts(message)
    newest = dict(parts)
    for key in [key for key in kept if key[1] < newest.get(key[0], 0)]:
        del kept[key]  # time goes on: no later inference looks back
    missing = [stream for stream, stamp in parts if (stream, stamp) not in kept]
    observation: Observation | None = None
    lacking = ''
    if missing:
        lacking = f'the bag lacks the message of {", ".join(missing)}'
    else:
        observed = _observe(message, contract, parts, kept)
        if isinstance(observed, Refusal):
            lacking = str(observed)
        else:
            observation = observed
    rows = int(message.rows)
    guidance = None
    if len(message.guidance_weights):
        guidance = (
            np.asarray(message.guidance, np.float64).reshape(rows, -1),
            np.asarray(message.guidance_weights, np.float64),
        )
    return Inference(
        index=index,
        sequence=int(message.sequence),
        stamp=nanoseconds(message.header.stamp),
        seed=int(message.seed),
        artifact_id=message.artifact_id,
        device=message.device,
        chunk=np.asarray(message.chunk, np.float32).reshape(rows, -1),
        guidance=guidance,
        outcome=message.outcome,
        observation=observation,
        lacking=lacking,
    )


def _observe(
    message: Any,
    contract: Contract,
    parts: list[tuple[str, int]],
    kept: dict[tuple[str, int], Recorded],
) -> Observation | Refusal:
    """The observation of these messages, at the time it was made."""
    buffer = ObservationBuffer(contract)
    begun = nanoseconds(message.begun)
    for part in parts:
        # Where the clock went back the bag's time is ahead of it.
        buffer.store(part[0], kept[part].message, min(kept[part].time, begun))
    # As the policy read it: it may have come with a goal, or long before.
    buffer.store(LANGUAGE_STREAM, message.instruction, begun)
    return buffer.observe(begun)
