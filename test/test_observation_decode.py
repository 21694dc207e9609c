# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Camera messages become the right RGB picture, or a reason; never a wrong picture."""
import sys
from array import array
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.contract.types import COMPRESSED_IMAGE, IMAGE
from quantvla_ros.errors import ObservationError
from quantvla_ros.observation.decode import SUPPORTED_ENCODINGS, decode_image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def image(encoding, pixels, *, padding=0, container=bytes, **changes):
    """A message whose rows are `pixels` [H, row bytes] and `padding` bytes of rubbish."""
    rows = np.pad(np.asarray(pixels, np.uint8), ((0, 0), (0, padding)), constant_values=77)
    fields = {
        'encoding': encoding, 'height': rows.shape[0], 'step': rows.shape[1],
        'is_bigendian': 0, 'data': container(rows.tobytes()), **changes,
    }
    return SimpleNamespace(**fields)


def picture(height=4, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rgb(pixels, **more):
    return image('rgb8', pixels.reshape(len(pixels), -1), width=pixels.shape[1], **more)


CONTAINERS = [bytes, lambda b: array('B', b), lambda b: np.frombuffer(b, np.uint8)]


@pytest.mark.parametrize('container', CONTAINERS, ids=['bytes', 'rclpy array', 'rosbags array'])
@pytest.mark.parametrize('padding', [0, 5])
def test_rgb8_is_a_view_of_the_message(container, padding):
    pixels = picture()
    message = rgb(pixels, padding=padding, container=container)
    decoded = decode_image(message, IMAGE)
    assert np.array_equal(decoded, pixels)
    assert np.shares_memory(decoded, np.frombuffer(message.data, np.uint8))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 7), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_channel_orders_and_padding_give_the_same_picture(height, width, padding, seed):
    pixels = picture(height, width, seed)
    alpha = np.full((height, width, 1), 9, np.uint8)
    forms = {
        'rgb8': pixels,
        'bgr8': pixels[..., ::-1],
        'rgba8': np.concatenate([pixels, alpha], 2),
        'bgra8': np.concatenate([pixels[..., ::-1], alpha], 2),
    }
    for encoding, form in forms.items():
        message = image(encoding, form.reshape(height, -1), width=width, padding=padding)
        decoded = decode_image(message, IMAGE)
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, pixels), encoding
    grey = decode_image(image('mono8', pixels[..., 0], width=width, padding=padding), IMAGE)
    assert np.array_equal(grey, np.repeat(pixels[..., :1], 3, 2))


# ITU-R BT.601 in limited range: Y, Cb (U), Cr (V) of pure colours.
YUV = {RED: (82, 90, 240), GREEN: (145, 54, 34), BLUE: (41, 240, 110)}


@pytest.mark.parametrize('colour', YUV)
@pytest.mark.parametrize(('encoding', 'order'), [
    ('yuv422', 'UYVY'), ('uyvy', 'UYVY'), ('yuv422_yuy2', 'YUYV'), ('yuyv', 'YUYV'),
])
def test_yuv422_shows_the_colour_that_was_sent(colour, encoding, order):
    luma, u, v = YUV[colour]
    pair = {'UYVY': [u, luma, v, luma], 'YUYV': [luma, u, luma, v]}[order]
    decoded = decode_image(image(encoding, [pair * 2] * 2, width=4, padding=3), IMAGE)
    assert decoded.shape == (2, 4, 3)
    assert np.abs(decoded.astype(int) - colour).max() <= 3


@pytest.mark.parametrize('colour', [RED, GREEN, BLUE])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_shows_the_colour_that_was_sent(colour, pattern):
    values = dict(zip('rgb', colour, strict=True))
    tile = np.array([values[c] for c in pattern], np.uint8).reshape(2, 2)
    message = image(f'bayer_{pattern}8', np.tile(tile, (4, 4)), width=8, padding=2)
    assert (decode_image(message, IMAGE) == colour).all()


@pytest.mark.parametrize(('changes', 'expected'), [
    ({'height': 0}, r'found 6x0 pixels'),
    ({'width': 0}, r'found 0x4 pixels'),
    ({'width': 7}, r'step >= 21 .*found 18'),
    ({'step': 0}, r'step >= 18 .*found 0'),
    ({'step': 19}, r'expected 76 bytes .*found 72'),
    ({'height': 5}, r'expected 90 bytes .*found 72'),
    ({'height': 3}, r'expected 54 bytes .*found 72'),
    ({'data': b''}, r'found 0; the message is cut off'),
    ({'is_bigendian': 7}, r'is_bigendian 0 or 1, found 7'),
    ({'encoding': '16UC1'}, r'16UC1: distances in mm .*rgb8, bgr8'),
    ({'encoding': '32FC1'}, r'32FC1: distances in m .*rgb8'),
    ({'encoding': ''}, r"found '' .*rgb8, bgr8, rgba8"),
])
def test_sizes_and_encodings_are_checked_before_use(changes, expected):
    message = rgb(picture())
    vars(message).update(changes)
    with pytest.raises(ObservationError, match=expected):
        decode_image(message, IMAGE)


def test_the_byte_order_means_nothing_for_bytes():
    pixels = picture()
    assert np.array_equal(decode_image(rgb(pixels, is_bigendian=1), IMAGE), pixels)


def test_small_or_odd_pictures_that_share_colours_between_pixels_are_refused():
    with pytest.raises(ObservationError, match='even width'):
        decode_image(image('yuyv', np.zeros((2, 6)), width=3), IMAGE)
    with pytest.raises(ObservationError, match='at least 3x3'):
        decode_image(image('bayer_rggb8', np.zeros((2, 2)), width=2), IMAGE)


def test_an_unknown_encoding_goes_to_cv_bridge_where_there_is_one(monkeypatch):
    class Refused(TypeError):
        pass

    def convert(message, encoding):
        assert encoding == 'rgb8'
        if message.encoding == 'nv99':
            raise Refused('no such\nencoding')
        return np.full((2, 2, 3), 5, np.uint8)

    bridge = ModuleType('cv_bridge')
    bridge.CvBridge = lambda: SimpleNamespace(imgmsg_to_cv2=convert)
    bridge.CvBridgeError = Refused
    monkeypatch.setitem(sys.modules, 'cv_bridge', bridge)
    assert (decode_image(image('nv21', np.zeros((3, 2)), width=2), IMAGE) == 5).all()
    with pytest.raises(ObservationError, match=r'nv99.*no such encoding.*rgb8'):
        decode_image(image('nv99', np.zeros((3, 2)), width=2), IMAGE)
    # Depth would come back from cv_bridge as a grey picture.
    with pytest.raises(ObservationError, match='16UC1'):
        decode_image(image('16UC1', np.zeros((2, 4)), width=2), IMAGE)


def test_without_cv_bridge_the_known_encodings_are_listed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)  # import fails
    with pytest.raises(ObservationError) as caught:
        decode_image(image('nv21', np.zeros((3, 2)), width=2), IMAGE)
    assert all(encoding in str(caught.value) for encoding in SUPPORTED_ENCODINGS)


def compressed(data, form='jpeg'):
    return SimpleNamespace(format=form, data=bytes(data))


def encoded(extension, pixels, *options):
    ok, data = cv2.imencode(extension, pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)
    assert ok
    return data.tobytes()


def test_png_gives_back_every_pixel():
    pixels = picture(9, 7)
    message = compressed(encoded('.png', pixels), 'rgb8; png compressed ')
    assert np.array_equal(decode_image(message, COMPRESSED_IMAGE), pixels)


def test_jpeg_gives_back_the_colours():
    pixels = np.tile(np.array([200, 60, 20], np.uint8), (16, 16, 1))
    for form in ('jpeg', 'jpg', '', 'bgr8; jpeg compressed bgr8'):
        decoded = decode_image(compressed(encoded('.jpg', pixels), form), COMPRESSED_IMAGE)
        assert np.abs(decoded.astype(int) - pixels).max() < 8


def test_a_grey_jpeg_and_trailing_padding_are_fine():
    data = encoded('.jpg', np.full((8, 8), 90, np.uint8)) + b'\0' * 40  # as UVC cameras send it
    decoded = decode_image(compressed(data), COMPRESSED_IMAGE)
    assert decoded.shape == (8, 8, 3) and np.abs(decoded.astype(int) - 90).max() < 3


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
@pytest.mark.parametrize('part', [0.0, 0.1, 0.5, 0.99])
def test_a_cut_off_picture_is_refused_and_never_half_grey(extension, part):
    data = encoded(extension, picture(64, 64))
    with pytest.raises(ObservationError):
        decode_image(compressed(data[: int(len(data) * part)]), COMPRESSED_IMAGE)


def test_what_is_no_colour_picture_is_refused_with_its_format():
    depth = encoded('.png', np.full((4, 4), 900, np.uint16))
    for data, form, expected in [
        (depth, '16UC1; png compressed ', 'distances'),
        (depth, '16UC1; compressedDepth png', 'distances'),
        (depth, 'mono16; png compressed ', '16 bit PNG'),
        (b'\0\0\0\x01gibberish', 'h264', "format 'h264' beginning with 00000001"),
        (b'', 'jpeg', 'beginning with nothing'),
        (b'\xff\xd8\xff\xe0' + b'x' * 50 + b'\xff\xd9', 'jpeg', 'damaged|can be decoded'),
    ]:
        with pytest.raises(ObservationError, match=expected):
            decode_image(compressed(data, form), COMPRESSED_IMAGE)


def test_another_message_type_is_refused():
    with pytest.raises(ObservationError, match='PointCloud2'):
        decode_image(rgb(picture()), 'sensor_msgs/msg/PointCloud2')


@given(st.binary(max_size=60), st.sampled_from(SUPPORTED_ENCODINGS), st.integers(0, 5),
       st.integers(0, 5), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_random_messages_give_a_picture_or_a_reason(data, encoding, height, width, step):
    message = SimpleNamespace(data=data, encoding=encoding, height=height, width=width, step=step,
                              is_bigendian=0)
    try:
        decoded = decode_image(message, IMAGE)
    except ObservationError:
        return
    assert decoded.shape == (height, width, 3) and decoded.dtype == np.uint8
