# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The short ways around a network give the bits of the long ones, and share nothing of theirs."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quantvla_ros.bench.workload import Lengths, write_random
from quantvla_ros.errors import ObservationError
from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.arrays import as_tensor, kept_rows
from quantvla_ros.models.groot_parts import Part, Vector
from quantvla_ros.models.relative_actions import add_state
from quantvla_ros.models.tokenizer import STATE_BINS, pi05_prompt
from quantvla_ros.observation.types import Observation

KINDS = ('pi05', 'smolvla', 'gr00t_n1_5')
COMMANDS = ('go', 'go go go', 'go', "it's go")
MODES = ('min_max', 'quantiles', 'mean_std', 'binary')


@pytest.fixture(scope='module')
def processors(tmp_path_factory):
    found = {}
    for kind in KINDS:
        directory = tmp_path_factory.mktemp(kind)
        config = write_random(directory, kind, {}, Lengths(views=3))
        found[kind] = load_processor(directory, config)
    return found


def observations(processor, count=20):
    """Commands that come again, states within and beyond the data's range, numbers or not."""
    generator = np.random.default_rng(0)
    for number in range(count):
        state = numbers(generator, processor.state_size)
        yield Observation(0, {}, state, COMMANDS[number % len(COMMANDS)])


def numbers(generator, *shape):
    """Float32 of the order of 1, of any order, zeros of both signs, and what is no number."""
    found = generator.uniform(-1.2, 1.2, shape)
    found *= np.where(generator.random(shape) < 0.2, 10.0 ** generator.integers(-44, 38, shape), 1)
    for rare in (0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf):
        found[generator.random(shape) < 0.02] = rare
    return found.astype(np.float32)


def bits(value):
    """What is compared: type, shape and every bit, NaN's too."""
    array = value.numpy() if isinstance(value, torch.Tensor) else value
    return array.dtype, array.shape, array.tobytes()


def tensors(inputs):
    """All of a network's inputs."""
    for value in vars(inputs).values():
        yield from value if isinstance(value, list) else [value]


def long_way(kind, processor, observation):
    """Inputs without pictures, by one torch operation for each thought."""
    if kind == 'pi05':
        ids = torch.tensor([processor.tokens(observation)])
        return [ids, torch.ones_like(ids, dtype=torch.bool)]
    ids = torch.tensor([processor.tokens(observation.instruction)])
    mask = torch.ones_like(ids, dtype=torch.bool)
    if kind == 'smolvla':
        state = torch.from_numpy(processor.steps.state.normalize(observation.state)).float()
        return [ids, mask, F.pad(state, (0, processor.sizes.state_dim - len(state)))[None]]
    state = torch.from_numpy(part_by_part(processor.state, observation.state))[None, None]
    pictures = torch.empty(0, 3, processor.image, processor.image)
    return [pictures, ids, mask, state, torch.tensor([processor.embodiment_id])]


def offset_and_span(part):
    """What a part's mode takes of its statistics."""
    names = {'min_max': ('min', 'max'), 'quantiles': ('q01', 'q99'), 'mean_std': ('mean', 'std')}
    low, high = (part.statistics[name] for name in names[part.mode])
    return low, high if part.mode == 'mean_std' else high - low


def back_by_formula(part, y):
    """A part's numbers of the network in the robot's units."""
    if part.mode == 'binary':
        return (y > 0.5).astype(np.float32)
    low, span = offset_and_span(part)
    return (y if part.mode == 'mean_std' else (y + np.float32(1)) / np.float32(2)) * span + low


def by_formula(part, x):
    """A part's numbers for the network."""
    if part.mode == 'sin_cos':
        return np.concatenate((np.sin(x), np.cos(x)))
    if part.mode == 'binary':
        return (x > 0.5).astype(np.float32)
    low, span = offset_and_span(part)
    scaled = (x - low) / np.where(span == 0, np.float32(1), span)
    if part.mode == 'mean_std':
        return np.where(span == 0, x, scaled)
    scaled = np.float32(2) * scaled - np.float32(1)
    if part.mode == 'min_max':
        return np.where(span == 0, np.float32(0), scaled)
    return np.clip(np.where(span == 0, x, scaled), np.float32(-1), np.float32(1))


def part_by_part(vector, x):
    """[size] to [width], each part by itself."""
    values, start = np.zeros(vector.width, np.float32), 0
    pieces = np.split(x, np.cumsum([part.size for part in vector.parts])[:-1])
    for part, piece in zip(vector.parts, pieces, strict=True):
        values[start : start + part.width] = by_formula(part, piece)
        start += part.width
    return values


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('kind', KINDS)
def test_inputs_have_the_bits_of_the_long_way(processors, kind):
    processor = processors[kind]
    for observation in observations(processor):
        made = list(tensors(processor.inputs_without_pictures(observation)))
        expected = long_way(kind, processor, observation)
        assert [bits(one) for one in made] == [bits(one) for one in expected]
        pairs = zip(made, expected, strict=True)
        assert all(one.stride() == other.stride() for one, other in pairs if one.numel())


@pytest.mark.parametrize('kind', KINDS)
def test_a_new_command_is_a_new_prompt_and_an_old_one_the_same_again(processors, kind):
    processor = processors[kind]
    name, state = 'input_ids' if kind == 'gr00t_n1_5' else 'tokens', processor.example_state()
    first, other, again = (
        getattr(processor.inputs_without_pictures(Observation(0, {}, state, command)), name)
        for command in ('go', 'go go go', 'go')
    )
    assert not torch.equal(first, other) and torch.equal(first, again)


@pytest.mark.parametrize('kind', KINDS)
def test_a_caller_that_changes_its_inputs_changes_no_later_ones(processors, kind):
    processor = processors[kind]
    observation = Observation(0, {}, processor.example_state(), 'go')
    first = [one.clone() for one in tensors(processor.inputs_without_pictures(observation))]
    for one in tensors(processor.inputs_without_pictures(observation)):
        one.fill_(0)
    second = processor.inputs_without_pictures(observation)
    assert all(map(torch.equal, first, tensors(second)))
    assert np.array_equal(observation.state, processor.example_state())


@pytest.mark.parametrize('kind', ['smolvla', 'gr00t_n1_5'])
def test_a_command_that_is_refused_is_refused_again(processors, kind):
    processor = processors[kind]
    special = processor.tokenizer.special[0] if processor.tokenizer.special else 'go ' * 200
    for _ in range(2):
        with pytest.raises(ObservationError):
            processor.inputs_without_pictures(
                Observation(0, {}, processor.example_state(), f'go {special}')
            )


@pytest.mark.parametrize('kind', ['pi05', 'smolvla'])
def test_pictures_are_parts_of_what_was_given(processors, kind):
    """The engine fits the next ones in the same place."""
    processor = processors[kind]
    rest = processor.inputs_without_pictures(
        Observation(0, {}, processor.example_state(), 'go')
    )
    pictures = torch.rand(3, 3, 8, 8)
    made = processor.with_pictures(rest, pictures)
    for one, expected in zip(made.images, pictures.split(1), strict=True):
        assert torch.equal(one, expected)
        assert (one.data_ptr(), one.stride()) == (expected.data_ptr(), expected.stride())
    assert [mask.tolist() for mask in made.image_masks] == [[True]] * 3
    others = [name for name in vars(rest) if not name.startswith('image')]
    assert all(getattr(made, name) is getattr(rest, name) for name in others)


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kind', KINDS)
def test_actions_have_the_bits_of_the_long_way_and_the_raw_ones_stay(processors, kind, dtype):
    processor = processors[kind]
    size = processor.action_size
    raw = torch.from_numpy(numbers(np.random.default_rng(1), 1, 16, 32)).to(dtype)
    before = raw.clone()
    state = processor.example_state()
    expected = long_actions(kind, processor, raw[0, :, :size].float().cpu().numpy())
    assert bits(processor.actions(raw, state)) == bits(expected)
    assert bits(raw.float()) == bits(before.float())


def long_actions(kind, processor, own):
    if kind == 'gr00t_n1_5':
        (part,) = processor.action.parts
        return back_by_formula(part, own)
    map_ = processor.action if kind == 'pi05' else processor.steps.action
    return map_.restore(own)


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_groots_whole_chunk_is_normalised_as_row_by_row(processors):
    processor = processors['gr00t_n1_5']
    actions = numbers(np.random.default_rng(2), 16, processor.action_size)
    rows = [part_by_part(processor.action, row)[: processor.action_size] for row in actions]
    assert bits(processor.normalized(actions, None)) == bits(np.stack(rows))


def made_part(generator, mode):
    size = int(generator.integers(1, 9))
    low = generator.uniform(-2, 2, size).astype(np.float32)
    span = np.where(generator.random(size) < 0.3, 0, generator.uniform(0, 3, size))
    high = np.maximum(low, (low + span).astype(np.float32))
    statistics = {'min': low, 'max': high, 'q01': low, 'q99': high, 'mean': low}
    statistics['std'] = span.astype(np.float32)
    return Part('part', mode, size, None, statistics)


@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_neighbours_of_one_mode_have_the_bits_of_each_by_itself():
    generator = np.random.default_rng(3)
    for _ in range(50):
        modes = np.repeat(generator.permutation([*MODES, 'sin_cos']), generator.integers(1, 4, 5))
        parts = tuple(made_part(generator, str(mode)) for mode in modes)
        state = Vector('state', parts, 256)
        x = numbers(generator, state.size)
        assert bits(state.normalize(x)) == bits(part_by_part(state, x))
        parts = tuple(part for part in parts if part.mode != 'sin_cos')
        action, raw = Vector('action', parts, 256), numbers(generator, 4, 256)
        starts = np.cumsum([0, *(part.size for part in parts)])
        pieces = [
            back_by_formula(part, raw[:, start : start + part.size])
            for part, start in zip(parts, starts, strict=False)
        ]
        assert bits(action.restore(raw)) == bits(np.concatenate(pieces, axis=-1))


def test_a_vector_of_another_size_is_refused():
    ones = np.ones(2, np.float32)
    part = Part('arm', 'min_max', 2, statistics={'min': ones, 'max': ones})
    for count in (1, 3):
        with pytest.raises(ValueError, match=f'expected 2 numbers, found {count}'):
            Vector('state', (part,), 4).normalize(np.zeros(count, np.float32))


def test_a_state_in_a_prompt_falls_in_the_bins_of_digitize():
    generator = np.random.default_rng(4)
    edges = np.linspace(-1, 1, STATE_BINS + 1)[:-1]
    for dtype in (np.float32, np.float64):
        state = numbers(generator, 500).astype(dtype)
        state[:256] = edges
        bins = ' '.join(str(number) for number in np.digitize(state, edges) - 1)
        assert pi05_prompt('go', state) == f'Task: go, State: {bins};\nAction: '


@pytest.mark.parametrize('kind', [tuple, list, np.array])
def test_a_state_is_added_where_actions_are_relative_in_any_spelling(kind):
    generator = np.random.default_rng(5)
    actions, state = numbers(generator, 4, 3), numbers(generator, 5)
    for relative in ((True, False, True), (False, False, True), (True, True, True)):
        expected = actions + np.where(relative, state[:3], np.float32(0))
        assert bits(add_state(actions, state, kind(relative))) == bits(expected)


def test_ids_are_made_once_for_each_of_the_last_commands():
    asked = []

    def tokens(command):
        asked.append(command)
        return list(command.encode())

    rows = kept_rows(tokens)
    for command in ('a', 'b', 'a', 'b'):
        row = rows(command)
        assert row.dtype == np.int64 and row.tolist() == [list(command.encode())]
        row[:] = 0
    assert asked == ['a', 'b']
    for number in range(100):  # and forgotten, or they would grow without end
        rows(str(number))
    rows('a')
    assert asked[-1] == 'a'


def test_an_array_is_a_tensor_of_its_own_memory_on_the_host():
    array = np.arange(3, dtype=np.float32)
    for device in ('cpu', torch.device('cpu')):
        assert as_tensor(array, device).data_ptr() == array.ctypes.data
    assert as_tensor(array, 'meta').device.type == 'meta'
