# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Write one executable per command of quantvla_ros/cli/main.py, for `ros2 run`.

Reads the table without importing the package: at build time nothing of it is installed yet.

    write_launchers.py MAIN_PY OUT_DIR    # prints the files as a CMake list
"""
from __future__ import annotations

import ast
import sys
from pathlib import Path

# `env python3`: the interpreter of the environment at run time, in which pip put torch.
LAUNCHER = """#!/usr/bin/env python3
import sys

from quantvla_ros.cli.main import main

sys.exit(main([{command!r}, *sys.argv[1:]]))
"""


def commands(main_py: Path) -> list[str]:
    """Names in the literal table COMMANDS of `main_py`."""
    for node in ast.parse(main_py.read_text(encoding='utf-8')).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == 'COMMANDS' and node.value is not None:
            return list(ast.literal_eval(node.value))
    raise SystemExit(f'{main_py}: expected a literal table COMMANDS: dict[...] = {{...}}')


def write_launchers(main_py: Path, out: Path) -> list[Path]:
    """Write the launchers; one that is up to date is left alone, one of a gone command removed."""
    out.mkdir(parents=True, exist_ok=True)
    names = commands(main_py)
    for stale in out.iterdir():
        if stale.name not in names:
            stale.unlink()
    written = []
    for name in names:
        path = out / name
        text = LAUNCHER.format(command=name)
        if not path.exists() or path.read_text(encoding='utf-8') != text:
            path.write_text(text, encoding='utf-8')
        path.chmod(0o755)
        written.append(path)
    return written


if __name__ == '__main__':
    if len(sys.argv) != 3:
        raise SystemExit('usage: write_launchers.py MAIN_PY OUT_DIR')
    launchers = write_launchers(Path(sys.argv[1]), Path(sys.argv[2]))
    print(';'.join(launcher.as_posix() for launcher in launchers))
