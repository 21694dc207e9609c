# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera messages to RGB pictures, the one decoder of live topics and bags.

Knows the encodings of sensor_msgs and image_transport; knows nothing of time, models or rclpy.
Every size in a message is checked against the data before it is used. Encodings that are not in
the table here go to cv_bridge where one is installed.
Encoding names: sensor_msgs/image_encodings.hpp; codecs: compressed_image_transport.
"""
from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from quantvla_ros.contract.types import COMPRESSED_IMAGE, IMAGE
from quantvla_ros.errors import ObservationError
from quantvla_ros.observation.messages import CompressedImage, Image

JPEG_MAGIC = b'\xff\xd8\xff'
JPEG_END = b'\xff\xd9'
PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
PNG_END = b'IEND\xaeB`\x82'
PNG_DEPTH_OFFSET = 24  # of the bit depth in the first chunk


class _Encoding(NamedTuple):
    """How the pixels of an encoding lie, and how they become RGB."""

    channels: int  # bytes per pixel
    convert: Callable[[np.ndarray], np.ndarray]  # [H, W, channels] uint8 -> [H, W, 3] RGB
    even_width: bool = False
    smallest: int = 1  # rows and columns


def _through(code: int, *, planar: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """A conversion by OpenCV; `planar` drops the last axis of a one-channel picture."""

    def convert(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.cvtColor(pixels[..., 0] if planar else pixels, code))

    return convert


# OpenCV names a Bayer pattern by its second row and second column, ROS by its first.
_ENCODINGS: dict[str, _Encoding] = {
    'rgb8': _Encoding(3, lambda pixels: pixels),
    'bgr8': _Encoding(3, _through(cv2.COLOR_BGR2RGB)),
    'rgba8': _Encoding(4, lambda pixels: pixels[..., :3]),
    'bgra8': _Encoding(4, _through(cv2.COLOR_BGRA2RGB)),
    'mono8': _Encoding(1, _through(cv2.COLOR_GRAY2RGB, planar=True)),
    'yuv422': _Encoding(2, _through(cv2.COLOR_YUV2RGB_UYVY), even_width=True),
    'uyvy': _Encoding(2, _through(cv2.COLOR_YUV2RGB_UYVY), even_width=True),
    'yuv422_yuy2': _Encoding(2, _through(cv2.COLOR_YUV2RGB_YUY2), even_width=True),
    'yuyv': _Encoding(2, _through(cv2.COLOR_YUV2RGB_YUY2), even_width=True),
    'bayer_rggb8': _Encoding(1, _through(cv2.COLOR_BayerBG2RGB, planar=True), smallest=3),
    'bayer_bggr8': _Encoding(1, _through(cv2.COLOR_BayerRG2RGB, planar=True), smallest=3),
    'bayer_gbrg8': _Encoding(1, _through(cv2.COLOR_BayerGR2RGB, planar=True), smallest=3),
    'bayer_grbg8': _Encoding(1, _through(cv2.COLOR_BayerGB2RGB, planar=True), smallest=3),
}
SUPPORTED_ENCODINGS = tuple(_ENCODINGS)

# cv_bridge would turn these into grey pictures without complaint.
_DEPTH = {
    '16UC1': 'distances in mm (16 bit), not a picture',
    '32FC1': 'distances in m (float), not a picture',
}


def decode_image(message: Any, message_type: str) -> np.ndarray:
    """RGB picture of a camera message.

    Args:
        message: sensor_msgs/msg/Image or CompressedImage, from rclpy or rosbags.
        message_type: which of the two, as in the contract.

    Returns:
        [H, W, 3] uint8 RGB. For rgb8 and rgba8 a view of the message's data (no copy), so it is
        to be read only.

    Raises:
        ObservationError: sizes that do not fit the data, an encoding or codec that is no picture,
            damaged data.
    """
    if message_type == IMAGE:
        return _raw(message)
    if message_type == COMPRESSED_IMAGE:
        return _compressed(message)
    raise ObservationError(
        f'expected a camera message ({IMAGE} or {COMPRESSED_IMAGE}), found {message_type}; '
        'correct the type in the contract'
    )


def _raw(message: Image) -> np.ndarray:
    height, width, step = int(message.height), int(message.width), int(message.step)
    name = message.encoding
    if height < 1 or width < 1:
        raise ObservationError(
            f'expected a picture, found {width}x{height} pixels; check the camera driver'
        )
    if int(message.is_bigendian) not in (0, 1):
        raise ObservationError(
            f'expected is_bigendian 0 or 1, found {message.is_bigendian}; the message is damaged'
        )
    if name in _DEPTH:
        raise ObservationError(
            f'expected a colour or grey picture, found encoding {name}: {_DEPTH[name]}; '
            f'name a topic with one of {", ".join(SUPPORTED_ENCODINGS)}'
        )
    encoding = _ENCODINGS.get(name)
    if encoding is None:
        return _by_cv_bridge(message)
    row = width * encoding.channels
    data = np.frombuffer(message.data, np.uint8)
    if step < row:
        raise ObservationError(
            f'expected step >= {row} ({width} pixels of {encoding.channels} bytes, {name}), '
            f'found {step}; check the camera driver'
        )
    if data.size != step * height:
        raise ObservationError(
            f'expected {step * height} bytes (step {step} x height {height}), '
            f'found {data.size}; the message is cut off or its sizes are wrong'
        )
    if encoding.even_width and width % 2:
        raise ObservationError(
            f'expected an even width for {name} (two pixels share a colour), found {width}; '
            'check the camera driver'
        )
    if min(height, width) < encoding.smallest:
        raise ObservationError(
            f'expected at least {encoding.smallest}x{encoding.smallest} pixels for {name}, '
            f'found {width}x{height}; check the camera driver'
        )
    # The byte order changes nothing here: every encoding in the table is of single bytes.
    pixels = data.reshape(height, step)[:, :row].reshape(height, width, encoding.channels)
    return encoding.convert(pixels)


def _by_cv_bridge(message: Image) -> np.ndarray:
    """The way out for encodings that only cv_bridge knows (nv21, rgb16, ...)."""
    supported = f'use one of {", ".join(SUPPORTED_ENCODINGS)}'
    try:
        bridge = importlib.import_module('cv_bridge')
    except ImportError:  # not installed, or built for another NumPy
        raise ObservationError(
            f'expected a known encoding, found {message.encoding!r} and no working cv_bridge '
            f'that might know it; {supported}'
        ) from None
    try:
        picture = np.asarray(bridge.CvBridge().imgmsg_to_cv2(message, 'rgb8'))
    except (bridge.CvBridgeError, TypeError, ValueError) as error:
        raise ObservationError(
            f'expected a known encoding, found {message.encoding!r}, which cv_bridge refuses '
            f'({_one_line(error)}); {supported}'
        ) from None
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ObservationError(
            f'expected RGB bytes from cv_bridge for {message.encoding!r}, found '
            f'{picture.dtype} {picture.shape}; {supported}'
        )
    return picture


def _compressed(message: CompressedImage) -> np.ndarray:
    # image_transport writes 'bgr8; jpeg compressed bgr8': what the picture was, then the codec.
    source, _, codec = (part.strip() for part in message.format.partition(';'))
    if source in _DEPTH or 'compresseddepth' in codec.replace(' ', '').lower():
        raise ObservationError(
            f'expected a compressed picture, found format {message.format!r}: '
            f'{_DEPTH.get(source, "distances, not a picture")}; name a colour camera'
        )
    data = np.frombuffer(message.data, np.uint8)
    head = data[:32].tobytes()
    if head.startswith(JPEG_MAGIC):
        # A cut-off JPEG decodes without complaint into a picture with a grey rest.
        whole, kind = JPEG_END in data[-65536:].tobytes(), 'JPEG'
    elif head.startswith(PNG_MAGIC):
        whole, kind = PNG_END in data[-64:].tobytes(), 'PNG'
        if len(head) > PNG_DEPTH_OFFSET and head[PNG_DEPTH_OFFSET] == 16:
            raise ObservationError(
                f'expected 8 bits per colour, found a 16 bit PNG (format {message.format!r}): '
                'depth or raw sensor data; name a colour camera'
            )
    else:
        raise ObservationError(
            f'expected JPEG or PNG data, found format {message.format!r} beginning with '
            f'{head[:4].hex() or "nothing"}; set the camera transport to jpeg or png'
        )
    if not whole:
        raise ObservationError(
            f'expected a whole {kind}, found {data.size} bytes without its end; '
            'the message is cut off'
        )
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ObservationError(
            f'expected a {kind} that can be decoded, found {_one_line(error)}'
        ) from None
    if picture is None:
        raise ObservationError(
            f'expected a {kind} that can be decoded, found {data.size} damaged bytes; '
            'check the camera driver'
        )
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
