# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fetch` takes what a policy needs of a repository and nothing that can run; no network here."""
import json
import sys
import types
from pathlib import Path

import pytest
from groot_samples import write_nvidia
from quantization_samples import write_checkpoint

from quantvla_ros.cli.main import main

REPOSITORY, COMMIT = 'somebody/pi05_cups', 'c0ffee' * 6 + 'abcd'
TOKENIZERS = 'google/paligemma-3b-pt-224'


class FakeHub:
    """Repositories as directories, behind the two functions that `fetch` calls."""

    def __init__(self, root):
        self.root = root
        self.gated, self.downloads, self.fail_at = set(), [], None
        errors = types.ModuleType('huggingface_hub.errors')
        errors.HfHubHTTPError = type('HfHubHTTPError', (OSError,), {})
        errors.RepositoryNotFoundError = type(
            'RepositoryNotFoundError', (errors.HfHubHTTPError,), {})
        errors.GatedRepoError = type('GatedRepoError', (errors.RepositoryNotFoundError,), {})
        errors.RevisionNotFoundError = type('RevisionNotFoundError', (errors.HfHubHTTPError,), {})
        errors.EntryNotFoundError = type('EntryNotFoundError', (Exception,), {})
        errors.HFValidationError = type('HFValidationError', (ValueError,), {})
        self.errors = errors

    def module(self):
        module = types.ModuleType('huggingface_hub')
        module.errors = self.errors
        module.model_info, module.hf_hub_download = self.model_info, self.hf_hub_download
        return module

    def place(self, repository):
        path = self.root / repository
        if not path.is_dir():
            raise self.errors.RepositoryNotFoundError('404 Client Error.\n\nRepository Not Found')
        return path

    def model_info(self, repository, *, revision=None, files_metadata=False):
        path = self.place(repository)
        if revision not in (None, 'main', COMMIT):
            raise self.errors.RevisionNotFoundError('404')
        assert files_metadata  # sizes, for the disk
        files = [
            types.SimpleNamespace(rfilename=str(f.relative_to(path)), size=f.stat().st_size)
            for f in sorted(path.rglob('*')) if f.is_file()
        ]
        return types.SimpleNamespace(sha=COMMIT, siblings=files)

    def hf_hub_download(self, repository, name, *, revision, local_dir):
        assert revision == COMMIT  # all of one commit
        path = self.place(repository) / name
        if repository in self.gated:
            raise self.errors.GatedRepoError('403 Client Error.\nAccess is restricted')
        if name == self.fail_at:
            raise self.errors.HfHubHTTPError('the connection broke')
        self.downloads.append((repository, name))
        target = Path(local_dir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        return str(target)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository with a whole pi0.5 that names its tokenizer's, and much that is not wanted."""
    fake = FakeHub(tmp_path / 'hub')
    checkpoint = fake.root / REPOSITORY
    write_checkpoint(checkpoint)
    own = fake.root / TOKENIZERS
    own.mkdir(parents=True)
    (checkpoint / 'tokenizer.json').rename(own / 'tokenizer.json')
    (own / 'model.safetensors').write_bytes(b'weights of another model')
    steps = json.loads((checkpoint / 'policy_preprocessor.json').read_text())
    for step in steps['steps']:
        if step['registry_name'] == 'tokenizer_processor':
            step['config']['tokenizer_name'] = TOKENIZERS
    (checkpoint / 'policy_preprocessor.json').write_text(json.dumps(steps))
    for name in ('pytorch_model.bin', 'optimizer.pt', 'training/modeling.py', 'eval/film.mp4'):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(b'no')
    monkeypatch.setitem(sys.modules, 'huggingface_hub', fake.module())
    monkeypatch.setitem(sys.modules, 'huggingface_hub.errors', fake.errors)
    return fake


def fetch(out, *more):
    return main(['fetch', REPOSITORY, '--out', str(out), *more])


def refused(capsys, out, message, *more):
    assert fetch(out, *more) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert message in said, said
    return said


def test_what_is_fetched_can_run(hub, tmp_path, capsys):
    assert fetch(tmp_path / 'out') == 0
    said = capsys.readouterr().out
    assert f'{REPOSITORY}@{COMMIT[:12]}' in said and 'it can run' in said
    assert 'tokenizer.json of google/paligemma' in said


def test_nothing_that_can_run_code_is_fetched_and_nothing_of_another_model(hub, tmp_path):
    fetch(tmp_path / 'out')
    held = {f.name for f in (tmp_path / 'out').rglob('*') if f.is_file()}
    assert {'config.json', 'model.safetensors', 'policy_preprocessor.json'} <= held
    assert not {'pytorch_model.bin', 'optimizer.pt', 'modeling.py', 'film.mp4'} & held
    assert (TOKENIZERS, 'model.safetensors') not in hub.downloads


def test_weights_come_last_so_that_a_wrong_name_costs_little(hub, tmp_path):
    fetch(tmp_path / 'out')
    own = [name for repository, name in hub.downloads if repository == REPOSITORY]
    assert own[-1] == 'model.safetensors'


def test_a_gated_tokenizer_does_not_lose_the_rest_and_says_how_to_get_it(hub, tmp_path, capsys):
    hub.gated.add(TOKENIZERS)
    assert fetch(tmp_path / 'out') == 1
    said = capsys.readouterr().out
    assert f'ask for access at https://huggingface.co/{TOKENIZERS}' in said
    assert 'missing before it can run: 1' in said and 'expected a tokenizer' in said
    hub.gated.clear()
    assert fetch(tmp_path / 'out') == 0


@pytest.mark.parametrize('named', ['somebody/tokenizer', None, '/home/somebody/tokenizer'])
def test_the_tokenizer_is_that_which_the_checkpoint_names_else_that_of_its_kind(
    hub, tmp_path, named
):
    path = hub.root / REPOSITORY / 'policy_preprocessor.json'
    path.write_text(path.read_text().replace(f'"{TOKENIZERS}"', json.dumps(named)))
    (hub.root / 'somebody' / 'tokenizer').mkdir()
    for file in (hub.root / TOKENIZERS).iterdir():
        (hub.root / 'somebody' / 'tokenizer' / file.name).write_bytes(file.read_bytes())
    assert fetch(tmp_path / 'out') == 0
    place = named if named == 'somebody/tokenizer' else TOKENIZERS
    assert (place, 'tokenizer.json') in hub.downloads


def test_gr00t_gets_vocabulary_merges_and_chat_template_of_their_repository(
    hub, tmp_path, capsys
):
    checkpoint = hub.root / 'nvidia' / 'GR00T'
    write_nvidia(checkpoint)
    (checkpoint / 'tokenizer.json').unlink()
    eagle = hub.root / 'lerobot' / 'eagle2hg-processor-groot-n1p5'
    eagle.mkdir(parents=True)
    names = {'vocab.json', 'merges.txt', 'tokenizer_config.json', 'added_tokens.json',
             'chat_template.json'}
    for name in (*names, 'config.json', 'processing_eagle.py', 'preprocessor_config.json'):
        (eagle / name).write_text('{}')
    main(['fetch', 'nvidia/GR00T', '--out', str(tmp_path / 'out')])
    came = {name for repository, name in hub.downloads if repository.startswith('lerobot/')}
    assert came == names
    assert (tmp_path / 'out' / 'experiment_cfg' / 'metadata.json').is_file()
    assert 'data_config.yaml' in capsys.readouterr().out  # no repository has one


def test_an_interrupted_fetch_goes_on(hub, tmp_path, capsys):
    hub.fail_at = 'model.safetensors'
    assert 'run this again' in refused(capsys, tmp_path / 'out', 'the connection broke')
    hub.fail_at = None
    assert fetch(tmp_path / 'out') == 0


def test_two_checkpoints_never_mix_in_one_directory(hub, tmp_path, capsys):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'mine.txt').write_text('mine')
    refused(capsys, out, 'expected a new or empty directory')
    assert list(out.iterdir()) == [out / 'mine.txt']
    fetch(tmp_path / 'other')
    mark = tmp_path / 'other' / 'fetched_from.json'
    mark.write_text(mark.read_text().replace(COMMIT, 'dead' * 10))
    refused(capsys, tmp_path / 'other', 'found those of somebody/pi05_cups@deaddeaddead')


def test_errors_of_the_hub_are_one_line_each(hub, tmp_path, capsys):
    out = tmp_path / 'out'
    refused(capsys, out, 'expected the revision v9', '--revision', 'v9')
    hub.gated.add(REPOSITORY)
    refused(capsys, out, 'gated repository')
    assert main(['fetch', 'nobody/nothing', '--out', str(out)]) == 2
    assert main(['fetch', 'https://huggingface.co/a/b', '--out', str(out)]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith(('quantvla_ros fetch: ', REPOSITORY))


def test_a_repository_without_safetensors_is_refused_before_anything_comes(hub, tmp_path, capsys):
    checkpoint = hub.root / REPOSITORY
    (checkpoint / 'model.safetensors').unlink()
    refused(capsys, tmp_path / 'out', 'a pickle, which can run any code')
    (checkpoint / 'config.json').rename(checkpoint / 'training' / 'config.json')
    refused(capsys, tmp_path / 'out', 'in the folder training')
    assert not hub.downloads


def test_a_full_disk_is_noticed_before_anything_comes(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda path: types.SimpleNamespace(free=1))
    refused(capsys, tmp_path / 'out', 'GiB of free disk')
    assert not hub.downloads


def test_without_the_library_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    refused(capsys, tmp_path / 'out', 'pip install "quantvla_ros[fetch]"')
