# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every architecture's forward pass does with its inputs, on the reference operations."""
import copy
import statistics

import pytest
import torch
from engine_kinds import CPU, KINDS, run
from engine_samples import relative

from quantvla_ros.engine.graph import Shape
from quantvla_ros.errors import BackendError


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize('recipe', ['float', 'w8a8'])
def test_in_bfloat16_the_engine_is_as_close_to_float32_as_the_network(kind, recipe):
    samples = kind.samples
    network = samples.network(recipe)
    narrow = samples.narrowed(copy.deepcopy(network))
    forward = kind.forward(kind.pack(narrow, CPU, torch.bfloat16), 2, 8)
    ours, theirs = [], []
    for seed in range(kind.seeds):
        given = samples.inputs(2, 6, seed)
        exact = samples.expected(network, *given)[0]
        ours.append(relative(run(forward, given), exact))
        theirs.append(relative(samples.expected(narrow, *given)[0], exact))
    # Which of them is closer is chance; a rounding error twice as large is not.
    assert 0 < statistics.mean(ours) < 1.1 * statistics.mean(theirs)


@pytest.mark.parametrize('recipe', ['w8a8', 'w4a8', 'paper-w4a8', 'everything'])
def test_a_longer_buffer_and_what_is_left_in_it_change_nothing(kind, recipe):
    # Rows beyond the prompt are computed and never read.
    given = kind.samples.inputs(2, 6)
    exact = run(kind.made(recipe, 2, 6), given)
    assert torch.isfinite(exact).all()
    forward = kind.made(recipe, 2, 16)
    assert torch.equal(run(forward, given), exact)
    run(forward, kind.samples.inputs(2, 16, seed=3))
    kind.samples.spoil(forward)
    assert torch.equal(run(forward, given), exact)


def test_an_instruction_of_another_length_needs_no_new_forward(kind):
    samples, forward = kind.samples, kind.made('float', 2, 16)
    for tokens in (6, 16, 2, 9):
        given = samples.inputs(2, tokens, seed=tokens)
        wanted = samples.expected(samples.network('float'), *given)[0]
        assert relative(run(forward, given), wanted) < kind.exact


def test_the_prompt_can_change_alone(kind):
    samples, forward = kind.samples, kind.made('float', 2, 16)
    images, _, *rest = given = samples.inputs(2, 6)
    run(forward, given)
    other = samples.inputs(2, 11, seed=1)[1]
    forward.set_prompt(other)
    wanted = samples.expected(samples.network('float'), images, other, *rest)[0]
    assert relative(forward.run(), wanted) < kind.exact


@pytest.mark.parametrize('place', ['images', 'state'])
def test_an_input_that_is_not_a_number_gives_no_plausible_motion(kind, place):
    if place == 'state' and 'state' not in kind.forward.ROWS:
        pytest.skip('its state is part of the prompt')
    given = kind.samples.inputs(2, 6)
    (given[0][1][0] if place == 'images' else given[2])[0, 3] = torch.nan
    assert torch.isnan(run(kind.made('w8a8', 2, 8), given)).all()


def test_the_network_is_left_as_it_is(kind):
    model = copy.deepcopy(kind.samples.network('w4a8'))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = kind.pack(model, CPU, torch.float32)
    run(kind.forward(weights, 2, 8), kind.samples.inputs(2, 6))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ('views', 'tokens', 'found'), [(1, 6, 'found 1$'), (3, 6, 'found 3$'), (2, 17, 'found .*17')]
)
def test_pictures_and_prompts_that_do_not_fit_are_refused(kind, views, tokens, found):
    forward = kind.made('float', 2, 16)
    with pytest.raises(BackendError, match=f'expected .*{found}'):
        forward.set_inputs(*kind.samples.inputs(views, tokens))


def test_no_prompt_at_all_is_refused(kind):
    images, tokens, *rest = kind.samples.inputs(2, 6)
    with pytest.raises(BackendError, match=r'expected .*1 to 16'):
        kind.made('float', 2, 16).set_inputs(images, tokens[:0], *rest)


def test_other_inputs_of_another_size_are_refused_before_anything_is_copied(kind):
    forward, given = kind.made('float', 2, 16), kind.samples.inputs(2, 6)
    for place, name in enumerate(kind.forward.ROWS, start=2):
        shape = list(given[place].shape)
        shorter = (*given[:place], given[place][:, :-1], *given[place + 1 :])
        before = forward.images.clone()
        with pytest.raises(BackendError) as refused:
            forward.set_inputs(*shorter)
        said = str(refused.value)
        assert f'{name} {shape}' in said and f'[{shape[0]}, {shape[1] - 1}]' in said
        assert torch.equal(forward.images, before)
    with pytest.raises(BackendError, match='expected'):
        forward.set_inputs(*given[:-1])


@pytest.mark.parametrize(('views', 'prompt'), [(0, 4), (2, 0)])
def test_a_forward_of_nothing_is_refused(kind, views, prompt):
    with pytest.raises(BackendError, match=f'found {views} and {prompt}'):
        kind.made('float', views, prompt)


def test_the_smallest_prepared_shape_that_fits_is_chosen(kind):
    samples = kind.samples
    graphs = kind.graphs(kind.weights('float'), [Shape(2, 16), Shape(1, 8), Shape(2, 8)])
    assert graphs.shapes == (Shape(1, 8), Shape(2, 8), Shape(2, 16))
    for views, tokens, longest in [(1, 8, 8), (2, 3, 8), (2, 9, 16)]:
        forward, captured = graphs.fitting(views, tokens)
        assert (forward.views, forward.prompt) == (views, longest)
        given = samples.inputs(views, tokens)
        forward.set_inputs(*given)
        captured()
        result = forward.result()
        assert relative(result, samples.expected(samples.network('float'), *given)[0]) < kind.exact
        forward.actions.fill_(torch.nan)
        assert torch.isfinite(result).all()  # the caller's own


def test_a_shape_that_was_not_prepared_is_refused_with_those_that_were(kind):
    graphs = kind.graphs(kind.weights('float'), [Shape(2, 8)])
    for views, tokens in [(1, 8), (2, 9)]:
        with pytest.raises(BackendError, match='2 with up to 8 tokens'):
            graphs.fitting(views, tokens)
