# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures are fitted as in the references: lerobot's in float, openpi's as Pillow, to the bit."""
import hashlib

import numpy as np
import pytest
import torch

from quantvla_ros.models.images import (
    resize_with_pad,
    resize_with_pad_antialiased,
    to_bytes,
    to_tensor,
)

# sha256 of what Pillow 11.3.0 makes of `picture(height, width)` by openpi's rule, [size, size, 3].
PILLOW = {
    (480, 640, 224):
        '10020a2c2303a004d7e1fe1d2299b4fe8982bb3d849107b75215d6adb6c4c67f',
    (640, 480, 224):
        'e150ad32c180ee3ff975fa194def04babc5383ce7efd15e3ae81f942afd0ef10',
    (240, 320, 224):
        '3083106c2225ba0d16dcef45e614b6c862546fcd3bf90bc0c7d4e9b82fedaebd',
    (224, 224, 224):
        '711147e6f4f6f039da72936f7be12d9eebb9c00e7d63af961bdef0998e762141',
    (100, 60, 224):
        '05400578758b0ac1b08d97197169878f2534e586767914e43da26a60387d9b64',
    (720, 1280, 224):
        'c7e3b2d15d65fdd131ac3e5193aba44f023719429578a2c2fea50a8c4eb75fe4',
    (61, 200, 56):
        '53c5a5c0d4f1b547a6ca45afddb269e19a93564d6aa7f4667026afbd3ec6a8c0',
    (225, 223, 224):
        'f21fe5c9729f94a34c1d880fa419855787bc625dd8ca50312e8581ac621d1166',
}


def picture(height, width):
    """Every byte value, edges and noise; of integers alone, so the same everywhere."""
    n = np.arange(height * width * 3, dtype=np.int64)
    noise = (n * 2654435761 % 2**32) >> 24
    return np.where(n // 97 % 3 == 0, n % 256, noise).astype(np.uint8).reshape(height, width, 3)


def as_bytes(image):
    """[1, 3, H, W] in [-1, 1] back to [H, W, 3] bytes."""
    return ((image[0] + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(('height', 'width', 'size'), sorted(PILLOW))
def test_openpis_pictures_equal_pillows_to_the_bit(height, width, size):
    fitted = resize_with_pad_antialiased(to_bytes(picture(height, width)), size)
    assert fitted.shape == (1, 3, size, size)
    digest = hashlib.sha256(np.ascontiguousarray(as_bytes(fitted)).tobytes()).hexdigest()
    assert digest == PILLOW[height, width, size]


def test_pillow_itself_agrees():
    image = pytest.importorskip('PIL.Image')
    if int(pytest.importorskip('PIL').__version__.partition('.')[0]) > 12:
        pytest.skip('another order of passes for tall pictures')
    for height, width, size in PILLOW:
        ratio = max(width / size, height / size)
        small = (int(width / ratio), int(height / ratio))
        made = image.fromarray(picture(height, width)).resize(small, image.Resampling.BILINEAR)
        square = image.new('RGB', (size, size), 0)
        square.paste(made, ((size - small[0]) // 2, (size - small[1]) // 2))
        fitted = resize_with_pad_antialiased(to_bytes(picture(height, width)), size)
        np.testing.assert_array_equal(as_bytes(fitted), np.asarray(square))


def test_a_picture_of_the_right_size_is_the_same_either_way():
    seen = picture(56, 56)
    torch.testing.assert_close(
        resize_with_pad_antialiased(to_bytes(seen), 56), resize_with_pad(to_tensor(seen), 56),
        rtol=0, atol=1e-6,
    )


def test_the_two_ways_differ_where_a_picture_shrinks():
    seen = picture(480, 640)
    ours = resize_with_pad(to_tensor(seen), 224), resize_with_pad_antialiased(to_bytes(seen), 224)
    assert (ours[0] - ours[1]).abs().max() > 0.1  # aliasing of fine detail
    assert ours[0][0, 0, 0, 0] == ours[1][0, 0, 0, 0] == -1.0  # bars


def test_bars_of_lerobot_0_4_are_at_minus_three():
    fitted = resize_with_pad(to_tensor(picture(30, 40)), 56, bar=-1.0)
    assert fitted[0, :, 0].unique().tolist() == [-3.0]
    assert fitted[0, :, 28].min() >= -1.0
    square = resize_with_pad(to_tensor(picture(40, 40)), 56, bar=-1.0)
    assert square.min() >= -1.0
