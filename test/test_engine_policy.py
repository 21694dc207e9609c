# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy behind the engine, on the CPU's definitions of its kernels: what it gives, refuses."""
import dataclasses
import gc
import sys
import weakref

import artifact_samples
import engine_samples
import numpy as np
import pytest
import torch
from engine_policy_samples import saying
from quantization_samples import COMMANDS

from quantvla_ros.engine import engine as engine_module
from quantvla_ros.engine import policy as policy_module
from quantvla_ros.engine import sources, ways
from quantvla_ros.engine.engines import ENGINES
from quantvla_ros.engine.graph import Captured, Shape
from quantvla_ros.engine.pictures import PicturePath, PictureReader
from quantvla_ros.engine.policy import load_policy
from quantvla_ros.engine.running import Running
from quantvla_ros.engine.shapes import prompt_lengths, read_lengths
from quantvla_ros.engine.trace import trace
from quantvla_ros.errors import BackendError, ObservationError
from quantvla_ros.models import pi05_processor
from quantvla_ros.models.checkpoint import load_model
from quantvla_ros.quantization.artifact import load_artifact

LENGTHS = (16, 48)
GPU = torch.device('cuda', 0)


@pytest.fixture(scope='module')
def checkpoint():
    return engine_samples.checkpoint()


@pytest.fixture(scope='module')
def artifact(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp('artifacts') / 'w4a8'
    artifact_samples.write(directory, checkpoint, kind='w4a8')
    return directory


@pytest.fixture(scope='module')
def plain(checkpoint):
    return load_policy(checkpoint)


@pytest.fixture(scope='module')
def graph(checkpoint):
    return load_policy(checkpoint, engine='graph', views=(1, 2), lengths=LENGTHS)


@pytest.mark.parametrize('cameras', [1, 2])
@pytest.mark.parametrize('words', ['red', ' '.join(COMMANDS)])
def test_engine_and_network_give_the_same_chunk(plain, graph, words, cameras):
    observation = saying(words, cameras=cameras)
    wanted = plain.infer(observation, seed=5)
    np.testing.assert_allclose(graph.infer(observation, seed=5), wanted, atol=1e-5)


def test_an_artifact_runs_on_the_engine(artifact):
    plain, graph = (load_policy(artifact, engine=name) for name in ('plain', 'graph'))
    assert graph.info == plain.info and graph.info.precision == 'w4a8'
    errors = []
    for seed in range(5):
        wanted = plain.infer(saying(COMMANDS[0], seed=seed), seed=seed)
        found = graph.infer(saying(COMMANDS[0], seed=seed), seed=seed)
        errors.append(np.abs(found - wanted).max() / np.abs(wanted).max())
    # A value between two integers may be rounded either way; seldom.
    assert np.median(errors) < 1e-5 and max(errors) < 5e-3


def test_the_same_seed_gives_the_same_bits_whatever_ran_between(graph):
    observation = saying(COMMANDS[0])
    first = graph.infer(observation, seed=1)
    graph.infer(saying(' '.join(COMMANDS), cameras=1), seed=2)
    graph.infer(saying(COMMANDS[1], seed=3), seed=1)
    np.testing.assert_array_equal(graph.infer(observation, seed=1), first)
    assert not np.array_equal(graph.infer(observation, seed=2), first)
    assert not np.array_equal(*(graph.infer(observation, seed=None) for _ in range(2)))


def test_a_seed_means_torchs_own_numbers_on_every_machine(plain, graph):
    wanted = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(11))
    assert torch.equal(plain.noise(11), wanted) and torch.equal(graph.noise(11), wanted)


def test_many_at_once_are_each_as_alone(graph):
    given = [saying(COMMANDS[0]), saying(COMMANDS[1], cameras=1)]
    alone = [graph.infer(one, seed=seed) for seed, one in enumerate(given)]
    np.testing.assert_array_equal(graph.infer_many(given, [0, 1]), alone)


def test_a_trace_of_the_engine_is_that_of_the_network(plain, graph):
    observation = saying(COMMANDS[0])
    wanted, found = (trace(policy, observation, seed=3) for policy in (plain, graph))
    np.testing.assert_array_equal(found.actions, graph.infer(observation, seed=3))
    np.testing.assert_array_equal(found.states[0], wanted.states[0])
    np.testing.assert_allclose(found.states, wanted.states, atol=1e-5)


def test_once_loaded_nothing_is_loaded_made_or_captured_again(checkpoint, monkeypatch):
    policy = load_policy(checkpoint, engine='graph', views=(1, 2), lengths=LENGTHS)
    policy.warm_up()

    def never(*args, **options):
        raise AssertionError('on the control path')

    kind = ENGINES['pi05']
    for owner, name in (
        (Captured, '__init__'),
        (type(policy.runner._graphs), '__init__'),
        (kind.forward, '__init__'),
        (kind.weights, '__init__'),
        (sources, 'load_model'),
        (sources, 'load_artifact'),
        (engine_module.PackedNetwork, '__init__'),
    ):
        monkeypatch.setattr(owner, name, never)
    for words in (*COMMANDS, ' '.join(COMMANDS), 'red'):  # both lengths, back and forth
        for cameras in (1, 2):
            assert np.isfinite(policy.infer(saying(words, cameras=cameras), seed=0)).all()


def larger(observation):
    """The same pictures, four times as many pixels: a camera's, not the network's."""
    four = np.ones((2, 2, 1), np.uint8)
    images = {slot: np.kron(picture, four) for slot, picture in observation.images.items()}
    return dataclasses.replace(observation, images=images)


def test_pictures_fitted_on_the_device_give_the_hosts_chunk(checkpoint, plain):
    policy = load_policy(checkpoint, engine='graph', lengths=(48,))
    policy.runner._read = PictureReader(policy.processor, torch.device('cpu'))
    observation = larger(saying(COMMANDS[0]))
    wanted = plain.infer(observation, seed=5)
    np.testing.assert_allclose(policy.infer(observation, seed=5), wanted, atol=1e-4)


def test_a_camera_that_falls_out_later_makes_nothing(checkpoint, monkeypatch):
    policy = load_policy(checkpoint, engine='graph', views=(1, 2), lengths=(48,))
    policy.runner._read = PictureReader(policy.processor, torch.device('cpu'), fewest=1)
    policy.warm_up()
    policy.infer(larger(saying('red')), seed=0)

    def never(*args, **options):
        raise AssertionError('on the control path')

    monkeypatch.setattr(Captured, '__init__', never)
    monkeypatch.setattr(PicturePath, '__init__', never)
    seen = larger(saying('red'))
    for slot in seen.images:
        alone = dataclasses.replace(seen, images={slot: seen.images[slot]})
        assert np.isfinite(policy.infer(alone, seed=0)).all()


def test_a_prompt_longer_than_the_longest_prepared_is_refused_by_its_length(checkpoint):
    policy = load_policy(checkpoint, engine='graph', lengths=(16,))
    count = len(policy.processor.tokens(saying(' '.join(COMMANDS))))
    with pytest.raises(ObservationError, match=f'{count} tokens, .* for up to 16; shorten'):
        policy.infer(saying(' '.join(COMMANDS)), seed=0)


def test_a_camera_fewer_than_prepared_is_refused(checkpoint):
    policy = load_policy(checkpoint, engine='graph', lengths=LENGTHS)
    with pytest.raises(ObservationError, match=r'expected pictures of 2 cameras.* found 1'):
        policy.infer(saying('red', cameras=1), seed=0)


def test_cameras_that_the_policy_does_not_know_are_not_prepared_for(checkpoint):
    policy = load_policy(checkpoint, engine='graph', views=(2, 3), lengths=(48,))
    assert policy.runner.shapes == (Shape(2, 48),)


def test_a_policy_that_needs_every_camera_is_prepared_for_no_fewer(checkpoint, monkeypatch):
    views = pi05_processor.PI05Processor.views

    def all_of_them(self, observation):
        if len(observation.images) < 2:
            raise ObservationError('every camera is needed')
        return views(self, observation)

    monkeypatch.setattr(pi05_processor.PI05Processor, 'views', all_of_them)
    policy = load_policy(checkpoint, engine='graph', views=(1, 2), lengths=(48,))
    assert policy.runner.shapes == (Shape(2, 48),)
    policy.warm_up()


def test_without_a_word_all_prompts_up_to_the_policys_longest_are_prepared(checkpoint):
    policy = load_policy(checkpoint, engine='graph')
    longest = policy.processor.max_tokens
    assert [shape.prompt for shape in policy.runner.shapes] == list(prompt_lengths(longest))
    assert str(longest) in policy.running.prepared


@pytest.mark.parametrize('longest', [1, 15, 16, 17, 48, 64, 200, 512])
def test_prepared_lengths_reach_the_longest_and_waste_little(longest):
    lengths = prompt_lengths(longest)
    assert lengths[-1] == longest and sorted(set(lengths)) == list(lengths)
    for tokens in range(33, longest + 1):
        assert min(length for length in lengths if length >= tokens) < 1.6 * tokens


def test_lengths_are_read_from_a_line():
    assert read_lengths(' ') is None and read_lengths('48, 16,48') == (16, 48)
    for wrong in ('0', '16;48', '16,', 'x', '9999', '²'):
        with pytest.raises(BackendError, match='prompt lengths: expected numbers of tokens'):
            read_lengths(wrong)


def test_a_prompt_is_embedded_once_for_as_long_as_it_stays(checkpoint, monkeypatch):
    # Without the state in the prompt, as openpi's libero: there it stays from step to step.
    policy = load_policy(checkpoint, engine='graph', lengths=LENGTHS)
    monkeypatch.setattr(
        pi05_processor.PI05Processor, 'tokens', lambda self, o: [2, *map(ord, o.instruction[:5])]
    )
    embedded = []
    embedding = policy.runner._packed.weights.embed_tokens
    embedding.register_forward_hook(lambda *call: embedded.append(1))
    chunks = [policy.infer(saying(words), seed=0) for words in ('red', 'red', 'blue', 'red')]
    assert len(embedded) == 3
    np.testing.assert_array_equal(chunks[0], chunks[3])
    assert not np.array_equal(chunks[0], chunks[2])


def test_a_network_on_the_host_is_gone_once_it_is_packed(checkpoint, monkeypatch):
    # On a CPU the packed weights are the network's; here the packed ones stand for a GPU's.
    held = []

    class Weights:
        def __init__(self, network, device, dtype):
            held.append(weakref.ref(network))

    monkeypatch.setattr(
        policy_module, 'ENGINES', {'pi05': dataclasses.replace(ENGINES['pi05'], weights=Weights)}
    )
    source = sources.open_source(checkpoint, None)
    packed, info, seconds = policy_module._packed(source, torch.device('meta'))
    gc.collect()
    assert held[0]() is None and packed.steps == 3 and info.precision == 'float32'
    assert list(seconds) == ['load', 'pack']


def mapped_ranges(path) -> list[range]:
    """Where this process sees a file."""
    with open('/proc/self/maps') as lines:
        spans = [line.split()[0].split('-') for line in lines if line.strip().endswith(str(path))]
    return [range(int(first, 16), int(last, 16)) for first, last in spans]


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_weights_that_are_packed_at_once_are_read_from_the_file_but_embeddings_are_kept(
    checkpoint, artifact
):
    for directory, load in (
        (checkpoint, lambda path: load_model(path, mapped=True)),
        (artifact, lambda path: load_artifact(path, mapped=True)[0]),
    ):
        network = load(directory)
        engine_module.own_embeddings(network)
        spans = mapped_ranges((directory / 'model.safetensors').resolve())
        wanted = load_policy(directory).runner.network.state_dict()
        assert spans
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, wanted[name]), name
            in_file = any(tensor.data_ptr() in span for span in spans)
            embedding = name.endswith(('embed_tokens.weight', 'position_embedding.weight'))
            assert in_file != embedding, name


def test_a_kernel_that_gives_no_numbers_or_others_each_time_is_found_at_warm_up(checkpoint):
    for spoil, said in (
        (lambda actions: actions.fill_(torch.nan), 'NaN'),
        (lambda actions: actions.add_(torch.randn_like(actions)), 'others each time'),
    ):
        policy = load_policy(checkpoint, engine='graph', lengths=(48,))
        forward, captured = policy.runner._graphs.fitting(2, 48)
        run = captured._run
        captured._run = lambda run=run, spoil=spoil, forward=forward: (
            run(), spoil(forward.actions)
        )
        with pytest.raises(BackendError, match=f'2 pictures and 48 tokens.*{said}'):
            policy.warm_up()


def test_what_is_ready_says_how_long_each_stage_took(graph):
    assert list(graph.running.seconds) == ['load', 'pack', 'capture']
    running = Running('graph', 'cuda', seconds={'load': 3.0, 'pack': 2.0, 'capture': 1.0})
    assert running.ready(6.5) == 'ready in 6.5 s: load 3.0, pack 2.0, capture 1.0, warm-up 0.5'


# What does not run here


def pretend(monkeypatch, *, capability=(9, 0), triton=None):
    """A GPU where there is none, as far as it is asked about."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    reason = triton or (
        None if capability >= (8, 0) else f'it needs compute capability 8.0, found {capability}'
    )
    monkeypatch.setattr(ways.fused, 'unavailable', lambda device: reason)


@pytest.mark.parametrize('allow', [False, True])
def test_without_a_gpu_the_cpu_is_taken_only_where_that_is_allowed(checkpoint, allow):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    if not allow:
        with pytest.raises(BackendError, match='device cuda: expected an NVIDIA GPU'):
            load_policy(checkpoint, device='cuda')
        return
    policy = load_policy(checkpoint, device='cuda', allow_fallback=True)
    running = policy.running
    assert (running.engine, running.device, policy.device.type) == ('plain', 'cpu', 'cpu')
    assert running.fallback.startswith('plain on cpu instead of graph on cuda: device cuda')
    assert running.facts()['fallback'] == running.fallback
    policy.warm_up()


@pytest.mark.parametrize(
    ('gpu', 'said'),
    [
        ({'capability': (7, 5)}, 'compute capability 8.0'),
        ({'triton': 'triton is not installed'}, 'triton is not installed'),
    ],
)
def test_a_gpu_that_the_kernels_do_not_run_on_is_an_error_that_says_what_does(
    checkpoint, monkeypatch, gpu, said
):
    pretend(monkeypatch, **gpu)
    with pytest.raises(BackendError) as raised:
        load_policy(checkpoint, device='cuda')
    message = str(raised.value)
    assert said in message and 'allow_fallback' in message
    assert 'available here: plain on cuda, plain on cpu' in message


def test_an_architecture_without_an_engine_is_an_error_that_names_those_with_one(
    checkpoint, monkeypatch
):
    pretend(monkeypatch)
    monkeypatch.setattr(ways, 'ENGINES', {'other': ENGINES['pi05']})
    with pytest.raises(BackendError, match=r'engine for pi05 yet \(there is for other\)'):
        load_policy(checkpoint, device='cuda')


def refusals():
    """What a kernel or the memory of a GPU may say."""
    yield BackendError('blocks of 256 are larger than the kernels take')
    try:
        from triton.runtime.errors import OutOfResources
    except ImportError:
        return
    yield OutOfResources(300_000, 232_448, 'shared memory')


@pytest.mark.parametrize('error', list(refusals()), ids=lambda error: type(error).__name__)
def test_a_kernel_that_does_not_fit_this_gpu_is_found_while_loading(
    checkpoint, monkeypatch, error
):
    def refuse(self, *args, **named):
        raise error

    monkeypatch.setattr(ENGINES['pi05'].forward, '__init__', refuse)
    with pytest.raises(BackendError) as raised:
        load_policy(checkpoint, engine='graph')
    assert f'graph on cpu: {error}; available here: plain on cpu' in str(raised.value)
    running = load_policy(checkpoint, engine='graph', allow_fallback=True).running
    assert running.engine == 'plain'
    assert running.fallback == f'plain on cpu instead of graph on cpu: {error}'


def test_a_gpu_without_room_is_said_with_its_numbers_and_left_for_what_fits(
    checkpoint, monkeypatch
):
    def refuse(self, *args, **named):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')

    monkeypatch.setattr(ENGINES['pi05'].forward, '__init__', refuse)
    with pytest.raises(BackendError, match=r'out of memory: 2\.00 GiB more were needed; end'):
        load_policy(checkpoint, engine='graph')
    running = load_policy(checkpoint, engine='graph', allow_fallback=True).running
    assert running.engine == 'plain' and '2.00 GiB more were needed' in running.fallback


def test_a_fault_of_ours_is_no_reason_to_fall_back(checkpoint, monkeypatch):
    def fail(self, *args, **named):
        raise RuntimeError('an illegal memory access')

    monkeypatch.setattr(ENGINES['pi05'].forward, '__init__', fail)
    with pytest.raises(RuntimeError, match='illegal memory access'):
        load_policy(checkpoint, engine='graph', allow_fallback=True)


def test_what_was_asked_for_is_no_fallback(checkpoint):
    running = load_policy(checkpoint, engine='plain', allow_fallback=True).running
    assert running.fallback is None and running.facts()['fallback'] == 'none'


def test_integer_layers_need_a_backend(monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr(ways, 'available_backends', lambda device: ())
    way = ways.Way('plain', GPU)
    assert 'none of the backends for integer layers' in (ways.unavailable(way, 'pi05', True) or '')
    assert ways.unavailable(way, 'pi05', False) is None


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'engine': 'fast'}, "engine: expected auto, graph, plain, found 'fast'"),
        ({'device': 'gpu'}, 'device gpu: expected cpu, cuda or cuda:N'),
        ({'device': 'meta'}, 'device meta: expected cpu, cuda or cuda:N'),
    ],
)
def test_words_that_mean_nothing_are_refused(checkpoint, options, said):
    with pytest.raises(BackendError, match=said):
        load_policy(checkpoint, allow_fallback=True, **options)


def test_a_gpu_that_is_not_there_is_named(monkeypatch, checkpoint):
    pretend(monkeypatch)
    with pytest.raises(BackendError, match='device cuda:3: expected cuda:0 to cuda:0'):
        load_policy(checkpoint, device='cuda:3')
