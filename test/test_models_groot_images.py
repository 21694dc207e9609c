# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T's pictures are those of the references, pixel for pixel, in both ways of preparing them."""
import numpy as np
import pytest
import torch

from quantvla_ros.models.groot_images import isaac_picture, lerobot_picture


def scene(height, width, seed=0):
    """A smooth picture with edges, as cameras give."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    picture = np.stack([
        np.sin(rows * f + columns * g) for f, g in generator.uniform(2, 20, (3, 2))
    ], axis=-1)
    picture[height // 3 : height // 2, width // 4 : width // 2] = generator.uniform(-1, 1, 3)
    return ((picture + 1) * 127.5).astype(np.uint8)


def levels(x):
    """[3, S, S] in [-1, 1] back to the levels of pixels."""
    return (x * 127.5 + 127.5).permute(1, 2, 0).numpy()


@pytest.mark.parametrize('make', [isaac_picture, lerobot_picture])
@pytest.mark.parametrize('shape', [(224, 224), (256, 256), (480, 640), (720, 1280), (100, 90)])
def test_pictures_are_whole_levels_of_the_right_size(make, shape):
    x = make(scene(*shape), 224)
    assert x.shape == (3, 224, 224) and x.dtype == torch.float32
    back = levels(x)
    assert np.abs(back - back.round()).max() < 1e-3
    assert x.min() >= -1 and x.max() <= 1


@pytest.mark.parametrize('make', [isaac_picture, lerobot_picture])
def test_a_picture_of_the_right_size_is_only_rescaled(make):
    picture = scene(224, 224)
    expected = (torch.from_numpy(picture).permute(2, 0, 1).double() / 255 - 0.5) / 0.5
    torch.testing.assert_close(make(picture, 224).double(), expected, atol=1e-6, rtol=0)


def test_the_middle_is_cut_out_before_resizing():
    picture = scene(256, 256)
    # 0.95 of 256 is 243.2: 243 pixels from row and column 6 on (13 / 2 rounds to the even 6)
    cut = isaac_picture(np.ascontiguousarray(picture[6:249, 6:249]), 224)
    assert (isaac_picture(picture, 224, 0.95) - cut).abs().max() <= 2 / 255
    assert (isaac_picture(picture, 224, 0.95) - isaac_picture(picture, 224)).abs().max() > 0.1


def test_a_wide_picture_is_squashed_without_bars():
    picture = np.full((120, 320, 3), 200, np.uint8)
    assert (levels(lerobot_picture(picture, 224)).round() == 200).all()
    # 199.99 becomes 199, as in the reference
    assert np.isin(levels(isaac_picture(picture, 224)).round(), (199, 200)).all()


def test_both_ways_count():
    picture = scene(480, 640)
    difference = (isaac_picture(picture, 224) - lerobot_picture(picture, 224)).abs()
    assert difference.max() > 0.02


def test_a_view_of_a_messages_bytes_is_read(recwarn):
    picture = np.frombuffer(scene(100, 100).tobytes(), np.uint8).reshape(100, 100, 3)
    isaac_picture(picture, 56, 0.95)
    lerobot_picture(picture, 56)
    assert not recwarn


@pytest.mark.parametrize('shape', [(256, 256), (480, 640), (100, 90)])
def test_the_resizes_are_pillows_up_to_rounding(shape):
    image = pytest.importorskip('PIL.Image', reason='Pillow is not at hand')
    picture = scene(*shape)
    for make, resample in ((lerobot_picture, image.BICUBIC), (isaac_picture, image.BILINEAR)):
        theirs = np.asarray(image.fromarray(picture).resize((224, 224), resample)).astype(float)
        difference = np.abs(levels(make(picture, 224)) - theirs)
        assert difference.max() <= 2.001
        if make is lerobot_picture:  # isaac's rounds down where Pillow rounds
            assert (difference > 0.5).mean() < 0.02


@pytest.mark.parametrize('shape', [(224, 224), (256, 256), (480, 640), (101, 90)])
def test_the_pictures_are_those_of_torchvision(shape):
    """The references' own calls."""
    v2 = pytest.importorskip('torchvision.transforms.v2', reason='torchvision is not at hand')
    picture = scene(*shape)
    frames = (torch.from_numpy(picture[None]).to(torch.float32) / 255.0).permute(0, 3, 1, 2)
    size = [int(side * 0.95) for side in shape]
    cut = v2.Resize((224, 224), antialias=True)(v2.CenterCrop(size)(frames))
    theirs = (cut.permute(0, 2, 3, 1) * 255).to(torch.uint8)[0].numpy()
    assert np.array_equal(levels(isaac_picture(picture, 224, 0.95)).round(), theirs)
    cubic = v2.InterpolationMode.BICUBIC
    theirs = v2.functional.resize(torch.from_numpy(picture).permute(2, 0, 1), [224, 224], cubic)
    mine = levels(lerobot_picture(picture, 224)).round()
    assert np.array_equal(mine, theirs.permute(1, 2, 0).numpy())
