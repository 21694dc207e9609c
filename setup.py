# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The part that needs no ROS, for pip: `pip install .` on a workstation that calibrates.

A robot builds the package with colcon instead, which reads CMakeLists.txt and ignores this file.
"""
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(
    r"^__version__ = '(.+)'$", (ROOT / 'quantvla_ros/__init__.py').read_text(), re.MULTILINE
)
assert VERSION is not None


def shared(*folders: str) -> list[tuple[str, list[str]]]:
    """Files of `folders`, for share/quantvla_ros of the environment, as colcon installs them."""
    return [
        (f'share/quantvla_ros/{folder}', sorted(map(str, Path(folder).glob('*.yaml'))))
        for folder in folders
    ]


setup(
    name='quantvla_ros',
    version=VERSION[1],
    description='On-robot runtime for vision-language-action policies quantized by QuantVLA',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='quantvla_ros contributors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['quantvla_ros', 'quantvla_ros.*']),
    package_data={'quantvla_ros.kernels': ['tile_tables/*.json']},  # of `tune`
    data_files=shared('config/contracts', 'config/data', 'config/recipes'),
    # Not opencv-python: it wants libGL and X libraries, and no window is opened here.
    install_requires=[
        'numpy>=1.21',
        'opencv-python-headless',
        'PyYAML',
        'rosbags>=0.11',
        'safetensors',
        'sentencepiece',
        'tokenizers',
        'torch>=2.11,<2.14',
    ],
    extras_require={
        'demo': ['av'],
        'fetch': ['huggingface_hub>=0.26'],
        'gpu': ['triton'],
        'test': ['hypothesis', 'mypy', 'pytest', 'ruff', 'types-PyYAML'],
    },
    entry_points={'console_scripts': ['quantvla_ros = quantvla_ros.cli.main:main']},
)
