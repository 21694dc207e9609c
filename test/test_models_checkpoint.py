# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint directories load lean and alike in every layout; what is wrong has one clear error.

Every refusal is tried with a GPU as the target: it must come before the GPU is touched, so it comes
on machines that have none, too.
"""
import json
import struct
import subprocess
import sys

import pytest
import torch
from groot_samples import tiny_config as groot_config
from quantization_samples import ROOT, write_checkpoint
from safetensors.torch import load_file, save_file

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models import export, load_model, weight_files
from quantvla_ros.models.architectures import architecture_of, build_network, empty_network
from quantvla_ros.models.checkpoint import checkpoint_files, network_weights, read_config
from quantvla_ros.models.pi05_checkpoint import EMBEDDING, LM_HEAD
from quantvla_ros.models.weight_files import INDEX, SINGLE, read_header, read_headers

ONE = 'model.action_in_proj.weight'


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('original'))


@pytest.fixture
def checkpoint(original, tmp_path):
    """A copy to be spoilt: config and one file of weights."""
    for name in ('config.json', SINGLE):
        (tmp_path / name).write_bytes((original / name).read_bytes())
    return tmp_path


@pytest.fixture
def shards(checkpoint):
    """The same in three shards."""
    tensors = load_file(checkpoint / SINGLE)
    (checkpoint / SINGLE).unlink()
    parts = {f'model-0000{i + 1}-of-00003.safetensors': sorted(tensors)[i::3] for i in range(3)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, checkpoint / file)
    index = {name: file for file, names in parts.items() for name in names}
    (checkpoint / INDEX).write_text(json.dumps({'metadata': {}, 'weight_map': index}))
    return checkpoint


def refused(directory, *parts):
    """Loading fails in one line that says all of this, and never reaches the GPU."""
    with pytest.raises(CheckpointError) as error:
        load_model(directory, device='cuda')
    text = str(error.value)
    assert '\n' not in text and len(text) < 1000
    for part in parts:
        assert part in text, text


def rewrite(checkpoint, edit, name=SINGLE):
    tensors = load_file(checkpoint / name)
    tensors = edit(tensors) or tensors
    save_file(tensors, checkpoint / name)


def reindex(checkpoint, edit):
    content = json.loads((checkpoint / INDEX).read_text())
    edit(content['weight_map'])
    (checkpoint / INDEX).write_text(json.dumps(content))


def reconfigure(checkpoint, **changes):
    config = json.loads((checkpoint / 'config.json').read_text())
    (checkpoint / 'config.json').write_text(json.dumps({**config, **changes}))


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_refusal_would_be_seen_to_touch_the_gpu(checkpoint):
    if torch.cuda.is_available():
        pytest.skip('here the GPU would take it')
    with pytest.raises((AssertionError, RuntimeError)):
        load_model(checkpoint, device='cuda')


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_weights_arrive_in_the_type_asked_for(checkpoint, dtype):
    stored = load_file(checkpoint / SINGLE)
    model = load_model(checkpoint, dtype=dtype).state_dict()
    architecture = architecture_of(read_config(checkpoint))
    assert len(model) > 50
    for name, tensor in stored.items():
        key = architecture.canonical_key(name)
        key = architecture.tied.get(key, key)
        wide = key.startswith(architecture.float32_modules)
        expected = tensor.to(torch.float32 if wide else dtype)
        assert model[key].dtype == expected.dtype and torch.equal(model[key], expected)


def test_layouts_of_the_same_weights_load_alike(checkpoint, shards, original, monkeypatch):
    model = load_model(original)
    assert same(load_model(shards), model)
    # Tensors of many windows, some beginning and ending within a page.
    monkeypatch.setattr(weight_files, 'WINDOW', 4096 + 512)
    assert same(load_model(shards), model)
    assert same(load_model(original), model)


def test_numbers_at_odd_places_of_a_file_are_read(checkpoint, original):
    # The library pads headers; other writers do not.
    data = (checkpoint / SINGLE).read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    header = data[8 : 8 + length].rstrip() + b' '
    header += b' ' * (1 - len(header) % 2)
    (checkpoint / SINGLE).write_bytes(struct.pack('<Q', len(header)) + header + data[8 + length :])
    assert read_header(checkpoint / SINGLE)[0].start % 2 == 1
    assert same(load_model(checkpoint), load_model(original))


def test_a_model_does_not_change_with_its_files(checkpoint, original):
    model = load_model(checkpoint, dtype=torch.bfloat16)
    with (checkpoint / SINGLE).open('r+b') as file:
        file.seek(-4000, 2)
        file.write(bytes(4000))
    assert same(model, load_model(original, dtype=torch.bfloat16))


def test_the_hub_cache_of_links_loads(shards, original, tmp_path_factory):
    blobs, snapshot = (tmp_path_factory.mktemp(name) for name in ('blobs', 'snapshot'))
    for number, file in enumerate(sorted(shards.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(blobs / str(number))
    assert same(load_model(snapshot), load_model(original))
    (blobs / '1').unlink()
    refused(snapshot, 'a link to a missing file', 'fetch it again')


def test_an_embedding_may_be_stored_as_itself_as_the_output_layer_or_both(shards, original):
    model = load_model(original)
    index = json.loads((shards / INDEX).read_text())['weight_map']
    head, itself = 'model.' + LM_HEAD, 'model.' + EMBEDDING
    held = index[head]

    def rename(tensors):
        tensors[itself] = tensors.pop(head)

    # Both, the other one in an earlier and in a later shard.
    for file in sorted(set(index.values()) - {held}):
        wrong = load_file(shards / held)[head] + 1

        def both(tensors, wrong=wrong):
            tensors[head] = wrong

        rewrite(shards, rename, held)
        rewrite(shards, both, file)
        reindex(shards, lambda m, file=file: m.update({itself: held, head: file}))
        assert same(load_model(shards), model)
        rewrite(shards, lambda t: {n: v for n, v in t.items() if n != head}, file)
        reindex(shards, lambda m: m.pop(head))
        assert same(load_model(shards), model)  # as itself alone
        rewrite(shards, lambda t: t.update({head: t.pop(itself)}), held)
        reindex(shards, lambda m: (m.pop(itself), m.update({head: held})))
    assert same(load_model(shards), model)  # as the output layer alone


def test_an_empty_network_costs_nothing_and_has_every_name(checkpoint):
    config = read_config(checkpoint)
    empty, real = empty_network(config), build_network(config)
    assert {n: t.shape for n, t in empty.state_dict().items()} == {
        n: t.shape for n, t in real.state_dict().items()
    }
    assert all(t.is_meta for t in empty.state_dict().values())
    # Drawing numbers on the meta device would import torch's compiler: seconds for nothing.
    code = (
        'import sys, pathlib; from quantvla_ros.models import load_model; '
        f'load_model(pathlib.Path({str(checkpoint)!r})); sys.exit("torch._dynamo" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_host_memory_holds_the_weights_once(tmp_path):
    # In a process of its own, since the peak is the process's: 256 MiB in two tensors of a file.
    if not sys.platform.startswith('linux'):
        pytest.skip('peak memory is read from /proc')
    big = 64 * 1024**2
    save_file(
        {'a': torch.ones(big, dtype=torch.bfloat16), 'b': torch.ones(big, dtype=torch.bfloat16)},
        tmp_path / SINGLE,
    )
    code = f'''
import pathlib, re, torch
from quantvla_ros.models.weight_files import read_headers, read_tensors
def peak():
    return int(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])
list(read_tensors([], 'cpu'))
before = peak()
headers = read_headers(pathlib.Path({str(tmp_path)!r}))
held = [t for _, t in read_tensors([(h, torch.bfloat16) for h in headers], 'cpu')]
print((peak() - before) / 1024)
'''
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 256 < float(run.stdout) < 1.35 * 256  # a window of 64 MiB beside them


def test_weights_are_found_from_headers_alone(shards):
    config = read_config(shards)
    found = network_weights(shards, architecture_of(config))
    wanted = empty_network(config).state_dict()
    assert found.weights.keys() == wanted.keys()
    assert len(found.names) == len(read_headers(shards)) == len(wanted)
    one = found.weights[ONE.removeprefix('model.')]
    assert (one.name, one.type, one.shape) == (ONE, 'BF16', (32, 8)) and one.bytes == 32 * 8 * 2
    assert [file.name for file in checkpoint_files(shards)] == [
        f'model-0000{i}-of-00003.safetensors' for i in (1, 2, 3)
    ]


# Files.


@pytest.mark.parametrize('length', [0, 4, 8, 100, 20_000, -100, -1])
def test_a_cut_off_file_is_refused(checkpoint, length):
    data = (checkpoint / SINGLE).read_bytes()
    (checkpoint / SINGLE).write_bytes(data[:length])
    size = len(data[:length])
    refused(checkpoint, SINGLE, f'found {size} bytes', 'cut off', 'fetch it again')


def header_of(**tensors):
    text = json.dumps(tensors).encode()
    return struct.pack('<Q', len(text)) + text


@pytest.mark.parametrize('data', [
    struct.pack('<Q', 2**63) + b'{}',
    struct.pack('<Q', 2**40) + b'{}',
    struct.pack('<Q', 2) + b'[]',
    struct.pack('<Q', 6) + b'{"a":1' + bytes(8),
    struct.pack('<Q', 40_000) + b'[' * 40_000,
    header_of(a={'dtype': 'BF16', 'shape': [2**40, 2**40], 'data_offsets': [0, 8]}) + bytes(8),
    header_of(a={'dtype': 'BF16', 'shape': [-4], 'data_offsets': [0, 8]}) + bytes(8),
    header_of(a={'dtype': 'BF16', 'shape': [4], 'data_offsets': [8, 0]}) + bytes(8),
    header_of(a={'dtype': 'BF16', 'shape': [4], 'data_offsets': [0, 2**50]}) + bytes(8),
    header_of(a={'dtype': 'NONE', 'shape': [4], 'data_offsets': [0, 8]}) + bytes(8),
    header_of(
        a={'dtype': 'BF16', 'shape': [4], 'data_offsets': [0, 8]},
        b={'dtype': 'BF16', 'shape': [4], 'data_offsets': [4, 12]},
    ) + bytes(12),
    b'\x80\x04pickle' * 10,
    b'<!DOCTYPE html><html>sign in to read this gated repository</html>' * 3,
])
def test_an_absurd_header_is_refused(checkpoint, data):
    (checkpoint / SINGLE).write_bytes(data)
    refused(checkpoint, SINGLE, 'fetch it again')


def test_a_pointer_of_git_lfs_is_known(checkpoint):
    (checkpoint / SINGLE).write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')
    refused(checkpoint, 'Git LFS', 'git lfs pull')


def test_a_missing_shard_is_named(shards):
    (shards / 'model-00002-of-00003.safetensors').unlink()
    refused(shards, 'model-00002-of-00003.safetensors', 'no such file', 'fetch it again')


def test_shards_without_their_index_are_refused(shards):
    (shards / INDEX).unlink()
    refused(shards, f'shards without {INDEX}')


def test_shards_and_a_single_file_together_are_refused(shards, original):
    (shards / SINGLE).write_bytes((original / SINGLE).read_bytes())
    refused(shards, 'found both', 'remove the one that is not meant')


def test_a_shard_that_holds_more_or_less_than_the_index_says_is_refused(shards):
    file = 'model-00002-of-00003.safetensors'
    name = read_header(shards / file)[0].name
    # Held in two shards: those of another split.
    other = 'model-00001-of-00003.safetensors'
    rewrite(shards, lambda t: t.update({name: load_file(shards / file)[name]}), other)
    refused(shards, other, 'different checkpoints', name)
    rewrite(shards, lambda t: {n: v for n, v in t.items() if n != name}, other)
    rewrite(shards, lambda t: {n: v for n, v in t.items() if n != name}, file)
    refused(shards, file, 'different checkpoints', name)


def test_a_weight_stored_under_two_spellings_is_refused(checkpoint):
    rewrite(checkpoint, lambda t: t.update({ONE.removeprefix('model.'): t[ONE] + 1}))
    refused(checkpoint, 'expected each weight once', 'mixed')


@pytest.mark.parametrize('file', [
    '../elsewhere.safetensors', '/etc/passwd', '/x.safetensors', 'sub/x.safetensors',
    '..', '', 3, None, ['a'], 'x\0.safetensors', 'pytorch_model-00001-of-00002.bin',
])
def test_an_index_leads_nowhere_else(shards, file):
    (shards.parent / 'elsewhere.safetensors').touch()
    reindex(shards, lambda weight_map: weight_map.update({ONE: file}))
    refused(shards, INDEX, ONE, 'beside the index')


@pytest.mark.parametrize('text', [
    '', '[]', '{}', '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": 3}', '[' * 100_000,
    '\udcff',
])
def test_a_damaged_index_is_named(shards, text):
    (shards / INDEX).write_text(text, errors='surrogateescape')
    refused(shards, INDEX, 'fetch it again')


@pytest.mark.parametrize(('names', 'parts'), [
    (['pytorch_model.bin'], ['pickle', 'convert it to safetensors']),
    (['model.pt', 'optimizer.pt'], ['pickle', 'model.pt']),
    (['adapter_config.json', 'adapter_model.safetensors'], ['LoRA adapter', 'merge it']),
    (['params'], ['JAX', 'convert_jax_model_to_pytorch.py']),
    (['README.md'], ['no such file', 'whole repository']),
])
def test_a_directory_without_safetensors_says_what_is_there(checkpoint, names, parts):
    (checkpoint / SINGLE).unlink()
    for name in names:
        (checkpoint / name).write_bytes(b'cos\nsystem\n(S"touch pwned"\ntR.')
    refused(checkpoint, SINGLE, *parts)
    assert not (checkpoint / 'pwned').exists()


# Names, shapes and types.


@pytest.mark.parametrize(('add', 'title'), [
    ({'base_model.model.x.lora_A.weight': [2]}, 'a LoRA adapter'),
    ({'model.x.qweight': [2]}, 'quantized already'),
    ({'normalize_inputs.buffer_observation_state.mean': [2]}, 'before 0.4'),
    ({'vlm_with_expert.lm_expert.layers.0.mlp.up_proj.weight': [2]}, 'SmolVLA'),
    ({'backbone.model.language_model.x': [2], 'action_head.model.x': [2]}, 'GR00T N1.6'),
    ({'backbone.model.visual.x': [2], 'action_head.model.x': [2]}, 'GR00T N1.7'),
    ({'_groot_model.action_head.vl_self_attention.x': [2]}, 'GR00T N1.5 as lerobot saves it'),
    ({'action_head.vl_self_attention.x': [2]}, 'GR00T N1.5'),
    ({'diffusion.unet.x': [2]}, 'a diffusion policy'),
    ({'something.else': [2]}, 'no model that is known here'),
])
def test_weights_of_another_model_are_told_by_their_names(checkpoint, add, title):
    save_file({name: torch.zeros(size) for name, size in add.items()}, checkpoint / SINGLE)
    refused(checkpoint, 'of pi0.5 by config.json', 'missing', f'{len(add)} unknown', title)


def test_pi0_in_place_of_pi05_is_told_by_its_expert(checkpoint):
    def without_modulation(tensors):
        changed = {n.replace('time_mlp', 'action_time_mlp'): v for n, v in tensors.items()
                   if '.dense.' not in n}
        norm = 'model.paligemma_with_expert.gemma_expert.model.layers.0.input_layernorm.weight'
        return {**changed, norm: torch.zeros(32), 'model.state_proj.weight': torch.zeros(32, 8)}

    rewrite(checkpoint, without_modulation)
    refused(checkpoint, 'the names are those of pi0')


def test_an_incomplete_file_lists_what_is_missing_and_unknown(checkpoint):
    def edit(tensors):
        tensors['model.unheard_of.weight'] = tensors.pop(ONE)

    rewrite(checkpoint, edit)
    refused(checkpoint, '1 missing (action_in_proj.weight)', '1 unknown (model.unheard_of.weight)',
            'those of pi0.5, so it is incomplete')


def test_a_long_list_of_names_is_cut_short(checkpoint):
    rewrite(checkpoint, lambda t: {n: v for n, v in t.items() if 'vision_tower' not in n})
    refused(checkpoint, ' more)', 'patch_embedding.bias')


def test_a_wrong_shape_names_both(checkpoint):
    rewrite(checkpoint, lambda t: t.update({ONE: torch.zeros(8, 32)}))
    refused(checkpoint, ONE, 'expected shape [32, 8] by config.json', 'found [8, 32]')


@pytest.mark.parametrize('dtype', [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.bool])
def test_weights_that_are_no_floats_are_refused(checkpoint, dtype):
    rewrite(checkpoint, lambda t: t.update({ONE: torch.zeros(32, 8).to(dtype)}))
    refused(checkpoint, ONE, 'expected one of the types F64, F32, F16, BF16', 'quantized already')


def test_what_nothing_uses_may_be_of_any_type(checkpoint, original):
    name = 'model.paligemma_with_expert.gemma_expert.lm_head.weight'
    rewrite(checkpoint, lambda t: t.update({name: torch.zeros(3, dtype=torch.int64)}))
    assert same(load_model(checkpoint), load_model(original))


# Configs.


@pytest.mark.parametrize(('changes', 'title'), [
    ({'type': 'pi0'}, "'pi0': pi0,"),
    ({'type': 'pi0_fast'}, 'pi0-FAST'),
    ({'type': None, 'model_type': 'Gr00tN1d6'}, 'GR00T N1.6'),
    ({'type': None, 'model_type': 'Gr00tN1d7'}, 'GR00T N1.7'),
    ({'type': None, 'model_type': 'gr00t_n1'}, 'the first GR00T N1'),
    ({'type': 'act'}, 'ACT'),
    ({'type': 'diffusion'}, 'without a language backbone'),
    ({'type': 'smolvla2'}, 'a variant of SmolVLA'),
    ({'type': 'xvla'}, 'another vision-language-action model'),
    ({'type': None, 'model_type': 'paligemma'}, 'without an action head'),
    ({'type': 'pi7'}, "'pi7'; this model is not supported"),
    ({'type': ['pi05']}, "['pi05']; this model is not supported"),
])
def test_a_model_we_do_not_know_is_named_with_those_we_do(checkpoint, changes, title):
    reconfigure(checkpoint, **changes)
    refused(checkpoint, title, 'pi0.5 (pi05)', 'GR00T N1.5 (gr00t_n1_5)', 'not supported')


@pytest.mark.parametrize('changes', [
    {'_sizes': {'vlm': [1]}}, {'_sizes': 3}, {'image_resolution': 'large'},
    {'max_action_dim': 'many'}, {'max_action_dim': -3}, {'max_action_dim': 2**62},
    {'chunk_size': [50]}, {'_sizes': None, 'paligemma_variant': 'gemma_9b'},
])
def test_sizes_that_make_no_network_are_refused(checkpoint, changes):
    reconfigure(checkpoint, **changes)
    refused(checkpoint, 'config.json')


@pytest.mark.parametrize('text', ['', '[]', '{', '3', '\udcff', '[' * 100_000])
def test_a_damaged_config_is_named(checkpoint, text):
    (checkpoint / 'config.json').write_text(text, errors='surrogateescape')
    refused(checkpoint, 'config.json', 'fetch it again')


def test_a_directory_that_is_none_says_so(tmp_path):
    refused(tmp_path / 'nowhere', 'config.json', 'no such directory')
    refused(tmp_path, 'config.json', 'pass the directory')
    (tmp_path / 'pretrained_model').mkdir()
    (tmp_path / 'pretrained_model' / 'config.json').write_text('{}')
    refused(tmp_path, f'pass {tmp_path / "pretrained_model"}')


def test_groot_is_refused_in_the_same_words(tmp_path):
    config = groot_config()
    (tmp_path / 'config.json').write_text(json.dumps(config))
    weights = {name: tensor.contiguous() for name, tensor in export.random_weights(config, 0)}
    hub = architecture_of(config).hub_key
    save_file({hub(n): t for n, t in weights.items() if 'vlln' not in n}, tmp_path / SINGLE)
    refused(tmp_path, 'of GR00T N1.5 by config.json', '2 missing (action_head.vlln.bias')
