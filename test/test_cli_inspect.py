# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`inspect` tells what a directory is and lists all that it lacks, without reading a weight."""
import json
import os
import struct

import artifact_samples
import pi05_directories
import pytest
import torch
from groot_samples import tiny_config, write_lerobot
from quantization_samples import ROOT, write_checkpoint
from safetensors.torch import load_file, save_file

from quantvla_ros.cli.inspect import LAYOUTS as CHOICES
from quantvla_ros.cli.main import main
from quantvla_ros.inspection.directory import inspect_directory
from quantvla_ros.models.architectures import architecture_of, build_network
from quantvla_ros.quantization.layout import LAYOUTS

CONTRACT = ROOT / 'config' / 'contracts' / 'tabletop.yaml'
WEIGHTS = 'model.safetensors'


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / 'checkpoint')


def missing(directory, *expected, **arguments):
    """The faults of a directory: exactly the expected ones, each on one line with its remedy."""
    facts = inspect_directory(directory, **arguments)
    found = [one['what'] for one in facts['missing']]
    assert len(found) == len(expected), found
    for text in expected:
        assert any(text in one for one in found), (text, found)
    assert all('\n' not in one['what'] + one['remedy'] for one in facts['missing'])
    assert facts['runnable'] == (not expected)
    json.dumps(facts, allow_nan=False)
    return facts


def sparse_weights(directory, config):
    """A weights file of the network's size that holds a header and, on the disk, nothing else."""
    with torch.device('meta'):
        network = build_network(config)
    hub_key, header, end = architecture_of(config).hub_key, {}, 0
    for name, tensor in network.state_dict().items():
        start, end = end, end + 2 * tensor.numel()
        shape = list(tensor.shape)
        header[hub_key(name)] = {'dtype': 'BF16', 'shape': shape, 'data_offsets': [start, end]}
    text = json.dumps(header).encode()
    with (directory / WEIGHTS).open('wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        os.truncate(file.fileno(), 8 + len(text) + end)


def test_a_whole_checkpoint_is_described_and_can_run(checkpoint, capsys):
    assert main(['inspect', str(checkpoint)]) == 0
    said = capsys.readouterr().out
    for text in ('pi0.5', 'observation.images.overhead', 'quantiles', 'q01', 'tokenizer.json',
                 'layout paper', 'paper-w4a8', 'nothing is missing'):
        assert text in said
    facts = missing(checkpoint)
    tensors = load_file(checkpoint / WEIGHTS)
    assert facts['sizes']['parameters'] == sum(t.numel() for t in tensors.values())
    assert sum(facts['sizes']['parts'].values()) == facts['sizes']['parameters']
    assert facts['weights']['prefixes'] == {'model.': len(tensors) - 1}  # the embedding is tied
    assert facts['weights']['embedding_stored_as'] == 'output layer'
    assert facts['weights']['numbers'] == {'BF16': facts['sizes']['parameters']}


def test_statistics_are_those_of_the_files(checkpoint):
    part, = inspect_directory(checkpoint)['state']['parts']
    stored = load_file(checkpoint / 'policy_preprocessor_step_2_normalizer_processor.safetensors')
    assert part['normalization'] == 'quantiles'
    for name in ('q01', 'q99'):
        expected = stored[f'observation.state.{name}'].tolist()
        assert part['statistics'][name] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_every_network_weight_is_counted_once_in_each_layout(checkpoint):
    assert set(CHOICES) == set(LAYOUTS)
    for layout in CHOICES:
        facts = inspect_directory(checkpoint, layout=layout)
        names = [*facts['layout']['layers']['integer'],
                 *(name for kept in facts['layout']['layers']['float'].values() for name in kept)]
        assert len(names) == len(set(names))
        counted = [*facts['layout']['integer'].values(), *facts['layout']['float']]
        total = sum(part['parameters'] for part in counted)
        assert 0.98 < total / facts['sizes']['parameters'] <= 1.0  # norms are not listed


def test_fewer_bits_take_less_memory(checkpoint):
    memory = inspect_directory(checkpoint)['memory']
    parameters = inspect_directory(checkpoint)['sizes']['parameters']
    assert memory['float32'] == 2 * memory['bfloat16'] == 4 * parameters
    assert memory['w4a8'] < memory['w8a8'] < memory['bfloat16']


@pytest.mark.parametrize('kind', ['pi05', 'gr00t_n1_5'])
def test_a_network_of_full_size_is_judged_by_headers_alone(tmp_path, kind):
    config = {'type': kind}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    sparse_weights(tmp_path, config)
    used = os.stat(tmp_path / WEIGHTS)
    if used.st_blocks * 512 > 2**30:
        pytest.skip('no sparse files here')
    facts = inspect_directory(tmp_path)
    # the weights are all there; what surrounds them is not
    assert not any(WEIGHTS in one['what'] for one in facts['missing'])
    assert not any('tensors' in one['what'] for one in facts['missing'])
    assert any('tokenizer' in one['what'] for one in facts['missing'])
    assert facts['weights']['bytes'] == used.st_size
    assert 2e9 < facts['sizes']['parameters'] < 4e9


def test_everything_that_is_missing_is_listed_not_only_the_first(checkpoint, capsys):
    for name in ('tokenizer.json', 'policy_postprocessor.json', WEIGHTS):
        (checkpoint / name).unlink()
    for path in checkpoint.glob('policy_preprocessor_step_*'):
        path.unlink()
    facts = missing(
        checkpoint, 'expected weights', 'expected a tokenizer', 'policy_postprocessor.json',
        'step_2_normalizer_processor.safetensors',
    )
    assert facts['sizes'] is not None and facts['state'] is None
    assert main(['inspect', str(checkpoint)]) == 1
    said = capsys.readouterr().out
    assert 'missing before it can run: 4' in said and 'google/paligemma' in said


def test_every_missing_shard_is_named(checkpoint):
    tensors = load_file(checkpoint / WEIGHTS)
    (checkpoint / WEIGHTS).unlink()
    files = [f'model-0000{n}-of-00003.safetensors' for n in (1, 2, 3)]
    placed = {name: files[index % 3] for index, name in enumerate(tensors)}
    index = checkpoint / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': placed}))
    own = {name: tensors[name] for name, file in placed.items() if file == files[0]}
    save_file(own, checkpoint / files[0])
    missing(checkpoint, files[1], files[2])
    index.write_text('{')
    missing(checkpoint, 'expected an index')


def test_wrong_weights_are_named(checkpoint):
    path = checkpoint / WEIGHTS
    tensors = load_file(path)
    save_file({**tensors, 'model.action_in_proj.weight': torch.zeros(2, 3)}, path)
    missing(checkpoint, 'model.action_in_proj.weight [2, 3] in place of [32, 8]')
    changed = {n: t for n, t in tensors.items() if 'layers.1.mlp' not in n}
    save_file({**changed, 'model.unheard_of': torch.zeros(2)}, path)
    missing(checkpoint, 'missing: ', 'unknown: model.unheard_of')
    path.write_bytes(path.read_bytes()[:-7])
    missing(checkpoint, 'expected a whole safetensors file')


def test_a_link_to_a_file_that_is_gone_is_missing(checkpoint, tmp_path):
    (checkpoint / WEIGHTS).unlink()
    (checkpoint / WEIGHTS).symlink_to(tmp_path / 'gone')
    missing(checkpoint, WEIGHTS)


def test_an_unknown_model_and_a_broken_config_are_named_beside_what_else_is_wrong(checkpoint):
    config = json.loads((checkpoint / 'config.json').read_text())
    (checkpoint / 'config.json').write_text(json.dumps({**config, 'type': 'pi7'}))
    missing(checkpoint, "'pi7'")
    (checkpoint / 'config.json').write_text(json.dumps({**config, '_sizes': {'vlm': 3}}))
    (checkpoint / 'tokenizer.json').unlink()
    missing(checkpoint, 'vis: expected a list of 4 whole numbers', 'expected a tokenizer')
    (checkpoint / 'config.json').write_text('{')
    facts = missing(checkpoint, 'expected JSON')
    assert 'pi0.5' in facts['weights']['names_of']


def test_what_is_no_checkpoint_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / 'inner').mkdir()
    (tmp_path / 'inner' / 'config.json').write_text('{}')
    for path in (tmp_path, tmp_path / 'nothing', ROOT / 'setup.py'):
        assert main(['inspect', str(path)]) == 2
        said = capsys.readouterr()
        assert said.err.count('\n') == 1 and not said.out
    assert main(['inspect', str(tmp_path)]) == 2
    assert f'did you mean {tmp_path / "inner"}?' in capsys.readouterr().err


def test_a_contract_gives_units_and_what_does_not_fit(checkpoint):
    from dataclasses import replace

    contract = artifact_samples.contract()
    facts = missing(checkpoint, contract=contract)
    assert facts['action']['units'] == [p.unit for p in contract.action.parts for _ in p.names]
    assert 'training data' in inspect_directory(checkpoint)['action']['units'][0]
    camera = replace(contract.cameras[0], slot='observation.images.chest')
    other = replace(contract, cameras=(camera, *contract.cameras[1:]))
    missing(checkpoint, 'wants slot', 'observation.images.chest', contract=other)


def test_json_goes_to_a_file_or_to_stdout(checkpoint, tmp_path, capsys):
    assert main(['inspect', str(checkpoint), '--json', '-', '--contract', str(CONTRACT)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['architecture']['type'] == 'pi05' and facts['runnable']
    out = tmp_path / 'facts.json'
    assert main(['inspect', str(checkpoint), '--json', str(out)]) == 0
    assert json.loads(out.read_text())['memory'] == facts['memory']
    assert main(['inspect', str(checkpoint), '--json', str(tmp_path / 'no' / 'x.json')]) == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_an_artifact_says_what_made_it_and_how_near_it_comes(checkpoint, tmp_path, capsys):
    artifact = tmp_path / 'artifact'
    manifest = artifact_samples.write(artifact, checkpoint, kind='w4a8')
    assert main(['inspect', str(artifact)]) == 0
    said = capsys.readouterr().out
    for text in (manifest.artifact_id, 'w4a8', 'held-out error', 'calibrated on', 'tabletop'):
        assert text in said
    facts = missing(artifact)
    assert facts['kind'] == 'artifact' and facts['artifact']['recipe'] == 'w4a8'
    assert facts['artifact']['held_out_error'] == manifest.content['calibration']['error']
    text = (artifact / 'config.json').read_text()
    (artifact / 'config.json').write_text(text.replace('"empty_cameras": 0', '"empty_cameras": 1'))
    (artifact / 'spiece.model').write_text('beside')
    missing(artifact, 'config.json: expected the file that', 'spiece.model')
    (artifact / 'tokenizer.json').unlink()
    (artifact / 'policy_postprocessor.json').write_text('{}')
    facts = inspect_directory(artifact)
    found = ' '.join(one['what'] for one in facts['missing'])
    assert 'tokenizer.json' in found and 'policy_postprocessor.json' in found
    (artifact / 'manifest.json').write_text('{}')
    (artifact / 'spiece.model').unlink()
    for path in checkpoint.iterdir():  # the rest whole again
        if path.name != WEIGHTS:
            (artifact / path.name).write_bytes(path.read_bytes())
    facts = missing(artifact, 'manifest.json')
    assert facts['sizes'] is not None and facts['state'] is not None


def test_an_artifact_cut_off_is_not_runnable(checkpoint, tmp_path):
    artifact = tmp_path / 'artifact'
    artifact_samples.write(artifact, checkpoint)
    weights = artifact / WEIGHTS
    tensors = load_file(weights)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, weights)
    missing(artifact, 'tensors of the manifest')
    weights.write_bytes(weights.read_bytes()[:-9])
    missing(artifact, 'expected a whole safetensors file')


def test_gr00t_says_that_it_must_be_told_of_the_data(tmp_path):
    config = tiny_config()
    (tmp_path / 'config.json').write_text(json.dumps(config))
    sparse_weights(tmp_path, config)
    facts = missing(
        tmp_path, 'expected to be told the cameras', 'expected statistics', 'expected a tokenizer'
    )
    assert any('config/data' in one['remedy'] for one in facts['missing'])
    (tmp_path / 'data_config.yaml').write_text('data_config: 1\nmodel: gr00t_n1_5\nstat: x\n')
    found = [one['what'] for one in inspect_directory(tmp_path)['missing']]
    assert any('data_config.yaml:3' in one for one in found)
    assert any('expected a tokenizer' in one for one in found)


def test_an_architecture_without_entries_here_is_inspected_too(checkpoint, monkeypatch):
    from quantvla_ros.inspection import surroundings

    monkeypatch.setattr(surroundings, 'TOKENIZERS', {})
    monkeypatch.setattr(surroundings, '_PROBES', {})
    missing(checkpoint)
    (checkpoint / 'tokenizer.json').unlink()
    missing(checkpoint, 'expected a tokenizer')


def test_openpis_directories_are_told_by_what_is_in_them(tmp_path):
    directory = pi05_directories.openpi(tmp_path / 'openpi', prompt_state='raw')
    facts = missing(directory)
    assert facts['weights']['prefixes'].keys() == {''} and facts['weights']['unused'] == 1
    assert facts['state']['parts'][0]['normalization'] == 'quantiles'
    (directory / 'data_config.yaml').unlink()
    missing(directory, 'prompt_state')
    (directory / 'tokenizer.json').unlink()
    next(directory.rglob('norm_stats.json')).unlink()
    missing(directory, 'norm_stats.json', 'expected a tokenizer', 'prompt_state')


def test_gr00t_of_lerobot_needs_no_data_config(tmp_path):
    directory = write_lerobot(tmp_path / 'lerobot')
    facts = missing(directory)
    assert list(facts['weights']['prefixes']) == ['_groot_model.']
    assert facts['data_config'] is None and facts['cameras']['slots']
    (directory / 'tokenizer.json').unlink()
    (directory / 'policy_postprocessor.json').unlink()
    missing(directory, 'policy_postprocessor.json', 'expected a tokenizer')
