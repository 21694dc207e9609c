# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures fitted where the network runs are those that the processors make on the CPU."""
import tracemalloc
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import groot_samples
import numpy as np
import pi05_directories
import pytest
import smolvla_samples
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from quantvla_ros.contract.load import load_contract
from quantvla_ros.engine.graph import Captured
from quantvla_ros.engine.pictures import PicturePath, PictureReader
from quantvla_ros.errors import ObservationError
from quantvla_ros.models import smolvla_processor
from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.models.fitting import bicubic_byte_taps, float_taps
from quantvla_ros.models.groot_images import (
    isaac_fit,
    isaac_picture,
    lerobot_fit,
    lerobot_picture,
)
from quantvla_ros.models.images import (
    antialiased_fit,
    fitted_size,
    float_fit,
    padded_fit,
    resize_with_pad,
    resize_with_pad_antialiased,
    to_bytes,
    to_tensor,
)
from quantvla_ros.observation.replay import replay
from quantvla_ros.sim.tabletop import Tabletop

ROOT = Path(__file__).resolve().parents[1]
BAG = ROOT.parent / 'shared' / 'bags' / 'gr1_pick_place_0'
CPU = torch.device('cpu')
SIZES = [
    (480, 640), (640, 480), (240, 320), (100, 60), (720, 1280), (61, 200), (37, 501), (256, 256),
    (225, 223), (223, 224), (224, 224),
]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no NVIDIA GPU')


def _smolvla_fit(height, width, size):
    rows, columns = fitted_size(height, width, size)
    return float_fit(height, width, size, size - rows, size - columns)


# What the CPU makes of a picture, the same written out, and by how many 255ths they may differ.
WAYS = {
    'openpi': (
        lambda picture, size: resize_with_pad_antialiased(to_bytes(picture), size)[0],
        antialiased_fit, 0,
    ),
    'lerobot': (
        lambda picture, size: resize_with_pad(to_tensor(picture), size)[0], padded_fit, 1e-3,
    ),
    'lerobot_0_4': (
        lambda picture, size: resize_with_pad(to_tensor(picture), size, bar=-1.0)[0],
        partial(padded_fit, bar=-1.0), 1e-3,
    ),
    'smolvla': (
        lambda picture, size: smolvla_processor.fit(to_tensor(picture), size)[0],
        _smolvla_fit, 1e-3,
    ),
    'groot_lerobot': (lerobot_picture, lerobot_fit, 0),
    'groot_isaac': (isaac_picture, isaac_fit, 1),
    'groot_isaac_cut': (partial(isaac_picture, crop=0.95), partial(isaac_fit, crop=0.95), 1),
}
each_way = pytest.mark.parametrize('way', WAYS)


def noise(height, width, seed=0):
    generator = np.random.default_rng([height, width, seed])
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def path(way, sizes, size=224, device=CPU):
    """For cameras that are called by their numbers."""
    fit = WAYS[way][1]
    named = {str(n): one for n, one in enumerate(sizes)}
    return PicturePath(lambda height, width: fit(height, width, size), named, size, device)


def fitted(way, *pictures, size=224):
    """[views, 3, size, size], by the path."""
    out = torch.full((len(pictures), 3, size, size), torch.nan)
    made = path(way, [picture.shape[:2] for picture in pictures], size)
    made.load({str(n): picture for n, picture in enumerate(pictures)}, out)
    return out


def differences(way, picture, size=224):
    """In 255ths, of each number."""
    expected = WAYS[way][0](picture, size)
    return (fitted(way, picture, size=size)[0] - expected).abs() * 127.5


def check(way, found):
    """The bound of a way; one level is one level as float32 has it."""
    allowed = WAYS[way][2]
    if allowed == 0:
        assert torch.equal(found, torch.zeros_like(found))
    assert found.max() <= allowed * (1 + 1e-5)


@each_way
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_a_picture_is_the_processors(way, height, width):
    found = differences(way, noise(height, width))
    check(way, found)
    assert (found > 0.5).float().mean() < 1e-3  # one level, where fractions are cut off


@pytest.mark.parametrize('way', sorted(WAYS.keys() - {'groot_isaac_cut'}))
def test_a_picture_of_the_right_size_is_the_processors_to_the_bit(way):
    assert not differences(way, noise(224, 224)).any()


@each_way
@pytest.mark.parametrize('size', [56, 512])
def test_other_squares_are_filled_alike(way, size):
    for height, width in ((480, 640), (101, 60), (size, size), (size + 1, size)):
        check(way, differences(way, noise(height, width), size))


@each_way
@pytest.mark.parametrize('level', [0, 1, 200, 254, 255])
def test_an_even_picture_stays_within_the_bound(way, level):
    # Where Isaac's ends a hair below a whole level on one side only, much of it is one level off.
    check(way, differences(way, np.full((480, 640, 3), level, np.uint8)))


@each_way
def test_drawn_pictures_are_the_processors(way):
    world = Tabletop(0)
    world.reset()
    for picture in world.render().values():
        for height, width in ((224, 224), (180, 200)):
            found = differences(way, np.ascontiguousarray(picture[:height, :width]))
            check(way, found)
            assert (found > 0.5).float().mean() < 0.1


@pytest.mark.skipif(not BAG.exists(), reason='the robot\'s bags are not at hand')
@each_way
def test_a_robots_pictures_are_the_processors(way):
    frames = replay(BAG, load_contract(ROOT / 'config' / 'contracts' / 'gr1_arms.yaml'))
    for number, frame in enumerate(frames):
        if number % 100:
            continue
        for picture in frame.observation.images.values():
            found = differences(way, picture)
            check(way, found)
            assert (found > 0.5).float().mean() < 0.01


@each_way
def test_cameras_of_several_sizes_fill_the_views_in_their_order(way):
    sizes = [(48, 64), (48, 64), (60, 60), (48, 64)]
    pictures = [noise(*size, seed) for seed, size in enumerate(sizes)]
    together = fitted(way, *pictures, size=56)
    for picture, found in zip(pictures, together, strict=True):
        assert torch.equal(found, fitted(way, picture, size=56)[0])


@each_way
def test_every_picture_replaces_all_of_the_one_before(way):
    made, out = path(way, [(40, 64)], 56), torch.full((1, 3, 56, 56), torch.nan)
    for seed in range(2):
        made.load({'0': noise(40, 64, seed)}, out)
        assert torch.equal(out, fitted(way, noise(40, 64, seed), size=56))


class Operations(TorchDispatchMode):
    """Keeps what is called, and with tensors of which shapes."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        shapes = [tuple(arg.shape) for arg in args if isinstance(arg, torch.Tensor)]
        self.calls.append((str(function), shapes))
        return function(*args, **(kwargs or {}))


@each_way
def test_a_graph_can_hold_it_and_no_short_float_touches_it(way):
    # The same calls whatever the picture, none that waits for a number or moves between devices,
    # and no product of matrices, the one thing that TF32 and its like change.
    made, seen = path(way, [(48, 64), (48, 64), (60, 60)], 56), []
    out = torch.empty(3, 3, 56, 56)
    for level in (0, 255):
        made.take({
            name: np.full((*size, 3), level, np.uint8) for name, size in made.sizes.items()
        })
        with Operations() as operations:
            made.fit(out)
        seen.append(operations.calls)
    assert seen[0] == seen[1]
    names = {name.split('.')[1] for name, _ in seen[0]}
    assert 'index_select' in names
    if WAYS[way][2]:  # how a device orders a sum of floats is its own affair
        assert 'sum' not in names
    assert not names & {
        'mm', 'bmm', 'addmm', 'baddbmm', 'matmul', 'convolution', '_local_scalar_dense', 'nonzero',
        'lift_fresh', '_upsample_bilinear2d_aa', 'upsample_bilinear2d',
    }


def test_a_camera_that_changes_its_size_is_refused_and_none_is_taken():
    made, out = path('openpi', [(48, 64), (60, 60)], 56), torch.empty(2, 3, 56, 56)
    first = {'0': noise(48, 64), '1': noise(60, 60)}
    made.load(first, out)
    before = out.clone()
    turned = {'0': noise(48, 64, 1), '1': noise(30, 40)}
    with pytest.raises(ObservationError, match=r'1: expected .* 60 x 60, .*found one of 40 x 30'):
        made.take(turned)
    made.fit(out)
    assert torch.equal(out, before)


@pytest.mark.parametrize(('picture', 'message'), [
    (None, 'found none'),
    (np.zeros((48, 64, 4), np.uint8), r'3 colours, found \(48, 64, 4\)'),
    (np.zeros((48, 64), np.uint8), r'3 colours, found \(48, 64\)'),
    (np.zeros((48, 64, 3), np.float32), 'bytes, found float32'),
])
def test_what_is_not_such_a_picture_is_refused(picture, message):
    made = path('openpi', [(48, 64)], 56)
    with pytest.raises(ObservationError, match=message):
        made.take({} if picture is None else {'0': picture})


def test_a_messages_bytes_are_taken_as_they_are():
    picture = noise(48, 64)
    picture.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        as_is = fitted('openpi', picture, size=56)
    turned = np.ascontiguousarray(picture[..., ::-1])[..., ::-1]  # as from blue, green and red
    assert torch.equal(as_is, fitted('openpi', turned, size=56))


def test_taking_pictures_takes_no_memory():
    made = path('openpi', [(480, 640)])
    images = {'0': noise(480, 640)}
    made.take(images)
    tracemalloc.start()
    try:
        made.take(images)
        assert tracemalloc.get_traced_memory()[1] < 10_000  # a picture is 921,600 bytes
    finally:
        tracemalloc.stop()


def test_weights_are_those_of_torch():
    for source, size in ((640, 224), (60, 224), (223, 224), (700, 56)):
        for antialias in (False, True):
            taps = float_taps(source, size, antialias=antialias)
            assert taps.weight.dtype == torch.float32 and taps.index.max() < source
            torch.testing.assert_close(taps.weight.sum(0), torch.ones(size), atol=1e-5, rtol=0)
        taps = bicubic_byte_taps(source, size)
        assert 2**14 <= taps.weight.max() < 2**15
        sums = taps.weight.sum(0) / 2**taps.bits
        torch.testing.assert_close(sums, torch.ones(size), atol=1e-2, rtol=0)


def _pi05(directory, resize):
    way = pi05_directories.openpi if resize == 'openpi' else pi05_directories.lerobot
    settings = {'prompt_state': 'raw'} if resize == 'openpi' else {}
    made = way(directory, **settings)
    pi05_directories.data_config(made, resize=resize, **settings)
    return made


def _groot(directory, resize, **settings):
    made = groot_samples.write_lerobot(directory)
    (made / 'data_config.yaml').write_text(
        yaml.safe_dump({'data_config': 1, 'model': 'gr00t_n1_5', 'resize': resize, **settings})
    )
    return made


DIRECTORIES = {
    'pi05 lerobot': partial(_pi05, resize='lerobot'),
    'pi05 lerobot_0_4': partial(_pi05, resize='lerobot_0_4'),
    'pi05 openpi': partial(_pi05, resize='openpi'),
    'groot lerobot': partial(_groot, resize='lerobot'),
    'groot isaac': partial(_groot, resize='isaac'),
    'groot isaac cut': partial(_groot, resize='isaac', crop=0.9),
    'smolvla': smolvla_samples.write_checkpoint,
}


def _pictures(inputs):
    return inputs.pixel_values if hasattr(inputs, 'pixel_values') else torch.cat(inputs.images)


@pytest.mark.parametrize('kind', DIRECTORIES)
def test_a_processor_divides_into_pictures_and_the_rest(kind, tmp_path):
    directory = DIRECTORIES[kind](tmp_path / 'checkpoint')
    processor = load_processor(directory, read_config(directory))
    seen = pi05_directories.observation(processor, size=40, instruction='pick')
    seen.images[processor.slots[-1]] = noise(50, 60)
    whole, rest = processor.inputs(seen), processor.inputs_without_pictures(seen)
    for name, value in vars(whole).items():
        if name not in ('images', 'image_masks', 'pixel_values'):
            assert torch.equal(getattr(rest, name), value), name
    assert len(rest.pixel_values if hasattr(rest, 'pixel_values') else rest.images) == 0
    again = processor.with_pictures(rest, _pictures(whole))
    assert same(again, whole)
    found = PictureReader(processor, CPU)(seen)
    difference = (_pictures(found) - _pictures(whole)).abs() * 127.5
    assert difference.max() <= (1.001 if 'isaac' in kind else 1e-3)
    if kind in ('pi05 openpi', 'groot lerobot'):
        assert same(found, whole)
    with pytest.raises(ObservationError, match='expected pictures for'):
        PictureReader(processor, CPU)(replace(seen, images={}))


def same(one, other):
    """Whether inputs are equal to the bit, and lists as long."""
    for name, value in vars(one).items():
        values, others = value, getattr(other, name)
        if isinstance(value, torch.Tensor):
            values, others = [value], [others]
        if not all(torch.equal(a, b) for a, b in zip(values, others, strict=True)):
            return False
    return True


@pytest.fixture
def smolvla(tmp_path):
    directory = smolvla_samples.write_checkpoint(tmp_path / 'checkpoint')
    return load_processor(directory, read_config(directory))


def test_the_first_pictures_settle_the_sizes_and_a_warm_up_does_not(smolvla):
    reader = PictureReader(smolvla, CPU)
    small = pi05_directories.observation(smolvla, size=smolvla.image, instruction='pick')
    large, other = (
        pi05_directories.observation(smolvla, size=size, instruction='pick') for size in (60, 61)
    )
    assert torch.equal(_pictures(reader(small)), _pictures(smolvla.inputs(small)))
    held = _pictures(reader(large))
    with pytest.raises(ObservationError, match=r'of 60 x 60, .* found one of 61 x 61'):
        reader(other)
    reader(small)
    torch.testing.assert_close(_pictures(reader(large)), held, rtol=0, atol=0)


def test_sizes_can_be_settled_before_the_first_pictures(smolvla):
    reader = PictureReader(smolvla, CPU)
    reader.prepare(dict.fromkeys(smolvla.slots, (48, 64)))
    seen = pi05_directories.observation(smolvla, size=60, instruction='pick')
    with pytest.raises(ObservationError, match=r'of 64 x 48, .* found one of 60 x 60'):
        reader(seen)


def test_an_absent_camera_has_no_picture(smolvla):
    reader = PictureReader(smolvla, CPU)
    seen = pi05_directories.observation(smolvla, size=60, instruction='pick')
    alone = replace(seen, images={smolvla.slots[1]: seen.images[smolvla.slots[1]]})
    both = _pictures(reader(seen)).clone()
    assert torch.equal(_pictures(reader(alone)), both[1:])
    assert torch.equal(_pictures(reader(seen)), both)


@gpu
@each_way
def test_a_gpu_gives_the_bits_of_the_cpu_in_a_graph_too(way):
    # TF32 is allowed, to show that nothing here is short.
    device, sizes = torch.device('cuda', 0), [(480, 640), (480, 640), (61, 200)]
    made = path(way, sizes, device=device)
    out = torch.full((3, 3, 224, 224), torch.nan, device=device)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('medium')
    try:
        run = Captured(lambda: made.fit(out), device)
        for seed in range(3):
            pictures = [noise(*size, seed + n) for n, size in enumerate(sizes)]
            made.take({str(n): picture for n, picture in enumerate(pictures)})
            allocated = torch.cuda.memory_allocated()
            run()
            assert torch.cuda.memory_allocated() == allocated
            assert torch.equal(out.cpu(), fitted(way, *pictures))
    finally:
        torch.set_float32_matmul_precision(before)
