# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks on artifacts: each file holds one kind. A victim is a fresh copy of a small artifact.

The attacker knows the format and forges every hash; loading must refuse with an ArtifactError that
names the file, or give the very policy that was written. Nothing else may come out, and nothing
outside the directory may be touched.
"""
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the samples lie beside the tests

from artifact_samples import write
from quantization_samples import write_checkpoint


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='session')
def original(checkpoint, tmp_path_factory):
    """An artifact whose layers hold every kind of tensor. Not to be changed."""
    out = tmp_path_factory.mktemp('artifact') / 'policy'
    write(out, checkpoint)
    return out


@pytest.fixture
def artifact(original, tmp_path):
    """A copy of it, to be attacked."""
    return Path(shutil.copytree(original, tmp_path / 'policy'))
