# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Rewrite the build container's paths in the ROS wheels' CMake exports to this environment's.

The wheels were built under /opt/python/cpXY-cpXY and say so in their exported targets; without this
CMake refuses them ("imported target includes non-existent path"). Installing a ROS wheel again
undoes it, so it runs after each pip install; running it twice changes nothing.

    .venv/bin/python fix_wheel_paths.py
"""
from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

ROOT = r'/opt/python/cp3\d+-cp3\d+'


def rules(prefix: str, include: str, numpy_include: str) -> list[tuple[re.Pattern[str], str]]:
    """What to replace by what, the longest paths first."""
    return [
        (re.compile(ROOT + r'/lib/python3\.\d+/site-packages/numpy/_core/include'), numpy_include),
        (re.compile(ROOT + r'/include/python3\.\d+'), include),
        (re.compile(ROOT), prefix),
    ]


def fix(prefix: Path, include: str, numpy_include: str) -> int:
    """Rewrite the files below `prefix`/share; return how many changed."""
    share = prefix / 'share'
    files = [*share.glob('*/cmake/**/*.cmake')]
    files += share.glob('ament_index/resource_index/parent_prefix_path/*')
    changed = 0
    for path in files:
        old = new = path.read_text(encoding='utf-8')
        for pattern, value in rules(str(prefix), include, numpy_include):
            # A function, so that a backslash in a path is not read as an escape.
            new = pattern.sub(lambda _, value=value: value, new)
        if new != old:
            path.write_text(new, encoding='utf-8')
            changed += 1
    return changed


if __name__ == '__main__':
    import numpy

    if sys.prefix == sys.base_prefix:
        raise SystemExit('fix_wheel_paths.py: expected the Python of a virtual environment')
    count = fix(Path(sys.prefix), sysconfig.get_path('include'), numpy.get_include())
    print(f'rewrote {count} CMake files of the ROS wheels')
