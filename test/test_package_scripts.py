# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scripts around the package: set-up, launchers, wheel paths, the sum of test results."""
from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / 'scripts' / f'{name}.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_setup(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {'PATH': path, 'HOME': '/nonexistent'}
    bash = shutil.which('bash')
    assert bash is not None
    return subprocess.run(
        [bash, str(ROOT / 'scripts/setup.sh'), *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A PATH with what every Debian has, and nothing that one has to install."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in ('basename', 'cat', 'cut', 'dirname', 'grep', 'paste', 'readlink', 'sed', 'tr'):
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    return folder


def test_set_up_names_every_missing_debian_package_and_the_command(bare_path):
    result = run_setup('--missing', path=str(bare_path))
    packages = 'python3 python3-venv python3-dev cmake gcc g++ make'
    assert (result.returncode, result.stdout) == (0, f'{packages}\n')
    result = run_setup(path=str(bare_path))
    assert result.returncode == 1
    assert f'apt-get install {packages}' in result.stderr


def test_set_up_names_only_what_is_missing(bare_path):
    for name in ('cc', 'c++', 'make'):
        (bare_path / name).symlink_to('/bin/true')
    # A Python that has everything: the names of its own parts are then not in the list.
    python = bare_path / 'python3'
    python.write_text('#!/bin/sh\ncase $2 in *rclpy*) exit 1;; *executable*) echo "$0";; esac\n')
    python.chmod(0o755)
    result = run_setup('--missing', path=str(bare_path))
    assert (result.returncode, result.stdout) == (0, 'cmake\n')


def test_set_up_refuses_an_argument_it_does_not_know(bare_path):
    result = run_setup('--tset', path=str(bare_path))
    assert result.returncode == 1
    assert "unknown argument '--tset': expected --test or --missing" in result.stderr


def test_there_is_one_launcher_per_command_and_none_of_a_command_that_is_gone(tmp_path):
    write_launchers = script('write_launchers')
    main_py = tmp_path / 'main.py'
    main_py.write_text("COMMANDS: dict[str, tuple[str, str]] = {'a': ('a', ''), 'b-c': ('b', '')}")
    out = tmp_path / 'out'
    paths = write_launchers.write_launchers(main_py, out)
    assert [path.name for path in paths] == ['a', 'b-c']
    assert all(os.access(path, os.X_OK) for path in paths)
    assert "main(['b-c', *sys.argv[1:]])" in paths[1].read_text()
    main_py.write_text("COMMANDS: dict[str, tuple[str, str]] = {'a': ('a', '')}")
    write_launchers.write_launchers(main_py, out)
    assert [path.name for path in out.iterdir()] == ['a']


def test_a_launcher_runs_its_command(tmp_path):
    write_launchers = script('write_launchers')
    launcher = next(
        path
        for path in write_launchers.write_launchers(ROOT / 'quantvla_ros/cli/main.py', tmp_path)
        if path.name == 'random-checkpoint'
    )
    result = subprocess.run(
        [sys.executable, launcher, '--help'],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('usage: quantvla_ros random-checkpoint')


def test_the_build_folders_of_the_wheels_become_those_of_the_environment(tmp_path):
    fix_wheel_paths = script('fix_wheel_paths')
    exported = tmp_path / 'share/sensor_msgs/cmake/sub/export.cmake'
    prefix_path = tmp_path / 'share/ament_index/resource_index/parent_prefix_path/rclpy'
    for path in (exported, prefix_path):
        path.parent.mkdir(parents=True)
    built = '/opt/python/cp312-cp312'
    exported.write_text(
        f'"{built}/lib/python3.12/site-packages/numpy/_core/include;'
        f'{built}/include/python3.12;{built}/lib/libx.so"'
    )
    prefix_path.write_text(built)
    assert fix_wheel_paths.fix(tmp_path, '/usr/include/python3.12', r'/n\1/include') == 2
    assert exported.read_text() == (
        rf'"/n\1/include;/usr/include/python3.12;{tmp_path}/lib/libx.so"'
    )
    assert prefix_path.read_text() == str(tmp_path)
    assert fix_wheel_paths.fix(tmp_path, '/usr/include/python3.12', r'/n\1/include') == 0


def run_lookalikes(folder: Path, *, path: list[Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / 'scripts/lookalikes.py', folder, 'arm_msgs', 'hand_msgs'],
        env={'PYTHONPATH': os.pathsep.join(map(str, path))},
        capture_output=True, text=True, check=True,
    )


def message_package(folder: Path, name: str) -> None:
    (folder / name / 'msg').mkdir(parents=True)
    (folder / name / 'msg/__init__.py').touch()


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """What colcon leaves of two packages, which `path_of` puts on the path."""
    for name in ('arm_msgs', 'hand_msgs'):
        message_package(path_of(tmp_path / 'lookalikes', name), name)
        (tmp_path / 'lookalikes/install' / name / 'share').mkdir()
    return tmp_path / 'lookalikes'


def path_of(folder: Path, name: str) -> Path:
    return folder / 'install' / name / 'lib/site-packages'


def test_stand_ins_on_the_path_do_not_count_as_installed(tmp_path, stand_ins):
    path = [path_of(stand_ins, 'arm_msgs'), path_of(stand_ins, 'hand_msgs')]
    found = run_lookalikes(stand_ins, path=path)
    assert (found.stdout, found.stderr) == ('arm_msgs hand_msgs\n', '')
    assert stand_ins.exists()
    assert run_lookalikes(tmp_path / 'none', path=[]).stdout == 'arm_msgs hand_msgs\n'


def test_a_package_that_was_installed_since_is_hidden_by_no_stand_in(tmp_path, stand_ins):
    real = tmp_path / 'opt'
    message_package(real, 'arm_msgs')
    path = [path_of(stand_ins, 'arm_msgs'), path_of(stand_ins, 'hand_msgs'), real]
    found = run_lookalikes(stand_ins, path=path)
    assert found.stdout == 'hand_msgs\n' and 'removed, arm_msgs is installed' in found.stderr
    assert not stand_ins.exists()  # the other one is built anew
    message_package(real, 'hand_msgs')
    assert run_lookalikes(stand_ins, path=path).stdout == '\n'


def junit(folder: Path, stage: str, tests: int, failures: int, skipped: int) -> None:
    (folder / f'{stage}.xml').write_text(
        f'<testsuites><testsuite tests="{tests}" failures="{failures}" errors="0" '
        f'skipped="{skipped}"/></testsuites>'
    )


def test_the_closing_line_adds_up_all_stages(tmp_path, capsys):
    sum_results = script('sum_results')
    junit(tmp_path, 'unit', tests=10, failures=0, skipped=2)
    junit(tmp_path, 'ros.test_policy', tests=4, failures=0, skipped=0)
    (tmp_path / 'ok.ruff').touch()
    assert sum_results.main(tmp_path, []) == 0
    assert capsys.readouterr().out == '13 passed, 0 failed, 2 skipped\n'


def test_a_stage_that_was_killed_or_could_not_start_counts_as_failed(tmp_path, capsys):
    sum_results = script('sum_results')
    junit(tmp_path, 'unit', tests=3, failures=1, skipped=0)
    (tmp_path / 'ros.test_cut.xml').write_text('<testsuites><testsui')
    assert sum_results.main(tmp_path, ['unit', 'mypy', 'ros.test_cut', 'ros.test_hung']) == 1
    assert capsys.readouterr().out == '2 passed, 4 failed\n'


def test_a_run_without_any_test_is_no_success(tmp_path):
    assert script('sum_results').main(tmp_path, []) == 1
