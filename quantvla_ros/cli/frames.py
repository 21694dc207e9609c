# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The frames of several bags, with progress, and a word about what was left out of each."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.contract.types import Contract
from quantvla_ros.observation.replay import Frame, Replay, replay

READING = 'reading bags'


def frames_of(
    bags: Sequence[Path],
    contract: Contract,
    progress: ProgressLine,
    *,
    namespace: str = '',
    need_actions: bool = False,
) -> Iterator[tuple[Replay, Frame]]:
    """Every frame of every bag, with the replay it comes from.

    Raises:
        BagError: a bag cannot be read, lacks a topic, or gives no observation.
    """
    found = 0
    for bag in bags:
        with replay(bag, contract, namespace=namespace, need_actions=need_actions) as frames:
            for frame in frames:
                found += 1
                progress(READING, found, None)
                yield frames, frame
            if frames.refused:
                reasons = '; '.join(
                    f'{count} times {stream}: {reason.value}'
                    for (stream, reason), count in frames.refused.most_common(3)
                )
                progress.note(f'{bag}: {frames.frames} observations; left out {reasons}')
