# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Say for which message packages the tests need stand-ins, and clear away those of others.

    python scripts/lookalikes.py FOLDER PACKAGE...    # prints the packages that are not installed

FOLDER is what colcon built test/ros/interfaces in; what lies there does not count as installed.
Where it holds a stand-in of a package that has been installed since, which it would hide, all of it
is removed: the others are built anew.
"""
from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def is_installed(package: str) -> bool:
    """Whether its messages can be imported."""
    try:
        importlib.import_module(f'{package}.msg')
    except ImportError:
        return False
    return True


def absent(folder: Path, packages: Sequence[str]) -> list[str]:
    """Those of `packages` that are not installed, other than in `folder`."""
    kept = list(sys.path)
    sys.path[:] = [
        path for path in kept if not Path(path).resolve().is_relative_to(folder.resolve())
    ]
    try:
        return [package for package in packages if not is_installed(package)]
    finally:
        sys.path[:] = kept


def clear(folder: Path, needed: Sequence[str]) -> bool:
    """Remove `folder` where it holds a stand-in that is not needed; whether it was removed."""
    built = {path.parent.name for path in (folder / 'install').glob('*/share')}
    if built <= set(needed):
        return False
    shutil.rmtree(folder)
    sys.stderr.write(f'{folder}: removed, {", ".join(sorted(built - set(needed)))} is installed\n')
    return True


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    folder, *packages = arguments
    needed = absent(Path(folder), packages)
    clear(Path(folder), needed)
    print(' '.join(needed))


if __name__ == '__main__':
    main(sys.argv[1:])
