# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames to an MP4 (H.264, plays in every browser) through PyAV.

Knows arrays and files; knows nothing of what the frames show.
"""
from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from quantvla_ros.errors import QuantVLAError


def write_video(path: Path, frames: Iterable[np.ndarray], rate: float) -> int:
    """Encode frames; the file appears when it is whole.

    Args:
        path: ends in .mp4.
        frames: [H, W, 3] uint8 RGB, all of one even size.
        rate: frames per second.
    Returns:
        How many frames there were.
    Raises:
        QuantVLAError: PyAV is not installed, or there are no frames.
    """
    try:
        import av
    except ImportError as error:
        raise QuantVLAError(
            f'{path.name}: expected PyAV to write a video, found none; pip install av'
        ) from error
    partial = path.with_suffix('.partial.mp4')
    count = 0
    try:
        with av.open(str(partial), 'w', format='mp4', options={'movflags': '+faststart'}) as file:
            stream = None
            for frame in frames:
                if stream is None:
                    stream = file.add_stream('libx264', rate=Fraction(rate).limit_denominator(1000))
                    stream.height, stream.width = frame.shape[:2]
                    stream.pix_fmt = 'yuv420p'
                    stream.options = {'crf': '20', 'preset': 'veryfast'}
                for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')):
                    file.mux(packet)
                count += 1
            if stream is None:
                raise QuantVLAError(f'{path}: expected frames, found none; nothing was recorded')
            for packet in stream.encode():
                file.mux(packet)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count
