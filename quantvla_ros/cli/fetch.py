# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fetch`: a checkpoint of the hub into a directory, on a workstation; a robot never downloads.

Only what a policy is made of is fetched: config, safetensors, processor files, statistics,
tokenizer; never a pickle, never code. All files are of one commit of the repository. The
tokenizer comes from the repository that the checkpoint names where it carries none itself.
"""
from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from quantvla_ros.errors import CheckpointError

MARK = 'fetched_from.json'  # in the directory: repository, commit and files
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*')

# Names of the files that are fetched, from the top of the repository.
_CONFIG = re.compile(
    r'config\.json|policy_(pre|post)processor[\w.-]*\.(json|safetensors)'
    r'|experiment_cfg/metadata\.json|assets/([\w.-]+/)*norm_stats\.json|meta/stats\.json'
    r'|LICENSE[\w.]*|README\.md'
)
_WEIGHTS = re.compile(
    r'model\.safetensors(\.index\.json)?|model-\d+-of-\d+\.safetensors'
)
_TOKENIZER = re.compile(
    r'tokenizer\.json|tokenizer\.model|vocab\.json|merges\.txt|tokenizer_config\.json'
    r'|added_tokens\.json|chat_template\.(json|jinja)'
)
_PICKLE = re.compile(r'.*\.(bin|pt|pth|ckpt|pkl|msgpack|h5)')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('repository', metavar='REPO', help='of the hub, as lerobot/pi05_base')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='where it goes')
    parser.add_argument('--revision', help='branch, tag or commit (default: the main branch)')
    parser.epilog = (
        'Needs huggingface_hub: pip install "quantvla_ros[fetch]". Run again, it goes on where it '
        'stopped. Exit status: 0 what came can run, 1 something is missing (it is listed), 2 it '
        'could not be fetched.'
    )


def run(args: argparse.Namespace) -> int:
    """Fetch, then say what is still missing."""
    from quantvla_ros.cli.inspect_text import missing_text
    from quantvla_ros.inspection.directory import inspect_directory

    hub, repository, out = _hub(), args.repository, args.out
    if not _NAME.fullmatch(repository):
        raise CheckpointError(
            f'{repository}: expected a repository of the hub as OWNER/NAME, found something else'
        )
    with _one_line(hub, repository, args.revision):
        commit, sizes = _listing(hub, repository, args.revision)
    names = [name for name in sizes if _CONFIG.fullmatch(name) or _WEIGHTS.fullmatch(name)]
    names += _tokenizer_names(sizes)
    _refuse_incomplete(repository, sizes, names)
    _prepare(out, repository, commit, names)
    _refuse_full_disk(out, {name: sizes[name] for name in names})
    _download(hub, repository, commit, names, out)
    left = _fetch_tokenizer(hub, out)
    total = sum((out / name).stat().st_size for name in names)
    skipped = len(sizes) - len(names)
    print(
        f'{out}: {len(names)} files of {repository}@{commit[:12]}, {total / 2**30:.2f} GiB'
        + (f'; {skipped} others left there' if skipped else '')
    )
    for line in left:
        print(line)
    facts = inspect_directory(out)
    print(missing_text(facts))
    return 0 if facts['runnable'] else 1


def _hub() -> ModuleType:
    """The client library, which only this command needs."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError:
        raise CheckpointError(
            'expected the package huggingface_hub, found it not installed; '
            'pip install "quantvla_ros[fetch]", or pip install huggingface_hub'
        ) from None
    return huggingface_hub


def _listing(
    hub: ModuleType, repository: str, revision: str | None
) -> tuple[str, dict[str, int]]:
    """The commit, and the size of every file of a repository by name."""
    info = hub.model_info(repository, revision=revision, files_metadata=True)
    # Names come from a stranger: none may lead out of the directory.
    return info.sha, {
        file.rfilename: file.size or 0
        for file in info.siblings or ()
        if not {'', '.', '..'} & set(file.rfilename.split('/'))
    }


def _tokenizer_names(sizes: Iterable[str]) -> list[str]:
    """Tokenizer files at the top of a repository; one kind is enough."""
    found = [name for name in sizes if _TOKENIZER.fullmatch(name)]
    templates = [name for name in found if name.startswith('chat_template')]
    for whole in ('tokenizer.json', 'tokenizer.model'):
        if whole in found:
            return [whole, *templates]
    return found if 'vocab.json' in found else []


def _refuse_incomplete(repository: str, sizes: Mapping[str, int], names: Iterable[str]) -> None:
    """Before gigabytes come: is it a checkpoint at all?"""
    names = list(names)
    lacking = [] if 'config.json' in names else ['config.json']
    if not any(_WEIGHTS.fullmatch(name) for name in names):
        lacking.append('safetensors weights')
    if not lacking:
        return
    folders = sorted(name.rpartition('/')[0] for name in sizes if name.endswith('/config.json'))
    pickles = [name for name in sizes if _PICKLE.fullmatch(name)]
    if pickles and 'config.json' in names:
        found = f'{pickles[0]}, a pickle, which can run any code and is not fetched; convert it'
    elif folders:
        found = (
            f'some in the folder {folders[0]}; fetch that folder by hand '
            f'(hf download {repository} --include "{folders[0]}/*" --local-dir DIR)'
        )
    else:
        found = f'{len(sizes)} other files; name the repository of a policy'
    raise CheckpointError(f'{repository}: expected {" and ".join(lacking)}, found {found}')


def _prepare(out: Path, repository: str, commit: str, names: list[str]) -> None:
    """Make the directory; another checkpoint's files must not mix with this one's."""
    mark = out / MARK
    content = {'repository': repository, 'commit': commit, 'files': sorted(names)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = json.loads(mark.read_text(encoding='utf-8')) if mark.is_file() else None
        if held is None and any(out.iterdir()):
            raise CheckpointError(
                f'{out}: expected a new or empty directory, found files in it; name another'
            )
        if held is not None and (held.get('repository'), held.get('commit')) != (
            repository, commit,
        ):
            raise CheckpointError(
                f'{out}: expected a new directory, or one with files of {repository}@{commit[:12]},'
                f' found those of {held.get("repository")}@{str(held.get("commit"))[:12]}; name '
                f'another, or ask for that --revision'
            )
        mark.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f'{out}: cannot write there ({error}); name another') from None


def _refuse_full_disk(out: Path, sizes: Mapping[str, int]) -> None:
    left = sum(size for name, size in sizes.items() if not (out / name).is_file())
    free = shutil.disk_usage(out).free
    if left > free:
        raise CheckpointError(
            f'{out}: expected {left / 2**30:.1f} GiB of free disk, found {free / 2**30:.1f}; name '
            f'a directory on another disk'
        )


def _download(
    hub: ModuleType, repository: str, commit: str, names: Iterable[str], out: Path
) -> None:
    """Files of one commit, the small ones first."""
    for name in sorted(names, key=lambda name: bool(_WEIGHTS.fullmatch(name))):
        print(f'{repository}: {name}', file=sys.stderr)
        with _one_line(hub, repository, commit):
            hub.hf_hub_download(repository, name, revision=commit, local_dir=out)


def _fetch_tokenizer(hub: ModuleType, out: Path) -> list[str]:
    """The tokenizer from its own repository, where the checkpoint carries none.

    Returns:
        Lines that say where it came from, or why it could not be fetched: the rest is of use.
    """
    if _tokenizer_names(path.name for path in out.iterdir()):
        return []
    repository = _tokenizer_repository(out)
    if repository is None:
        return []
    try:
        with _one_line(hub, repository, None):
            commit, sizes = _listing(hub, repository, None)
        names = _tokenizer_names(sizes)
        _download(hub, repository, commit, names, out)
    except CheckpointError as error:
        return [f'tokenizer: {error}']
    return [f'tokenizer: {", ".join(names) or "none"} of {repository}@{commit[:12]}']


def _tokenizer_repository(out: Path) -> str | None:
    """None: not a model of ours; what is said at the end says so."""
    from quantvla_ros.inspection.surroundings import tokenizer_repository
    from quantvla_ros.models.architectures import architecture_of
    from quantvla_ros.models.checkpoint import read_config

    try:
        config = read_config(out)
        return tokenizer_repository(out, config, architecture_of(config).kind)
    except CheckpointError:
        return None


@contextmanager
def _one_line(hub: ModuleType, repository: str, revision: str | None) -> Iterator[None]:
    """Faults of the client library as one line each, with what to do."""
    errors: Any = hub.errors
    place = f'https://huggingface.co/{repository}'
    # What the connection itself raises differs between versions; the hub's error stems from it.
    connection = tuple(
        one for one in errors.HfHubHTTPError.__mro__
        if issubclass(one, Exception) and one is not Exception
    )
    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(
            f'{repository}: expected access, found a gated repository; ask for access at {place}, '
            f'log in (hf auth login) and run this again'
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f'{repository}: expected the revision {revision}, found none of that name; see '
            f'{place}/commits/main'
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f'{repository}: expected a repository of the hub, found none, or a private one; '
            f'correct the name, or log in (hf auth login)'
        ) from None
    except errors.HFValidationError as error:
        raise CheckpointError(
            f'{repository}: expected OWNER/NAME, found something else ({_line(error)})'
        ) from None
    except (errors.EntryNotFoundError, *connection) as error:
        raise CheckpointError(
            f'{repository}: cannot be fetched ({_line(error)}); check the connection and run this '
            f'again, it goes on where it stopped'
        ) from None


def _line(error: BaseException, limit: int = 200) -> str:
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + '...'
