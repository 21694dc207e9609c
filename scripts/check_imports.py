# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Hold the package to the import direction that docs/architecture.md states.

Reads the order from that page, so that page and check cannot disagree, and the imports from the
source by `ast`, those inside functions and under TYPE_CHECKING too; nothing is imported.

    python scripts/check_imports.py [ROOT]    # one line per violation; status 1 if there are any
"""
from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = 'quantvla_ros'

# Lazily loaded names of quantvla_ros/__init__.py and the package they come from.
FACADE = {'load_policy': 'engine'}

# ROS, by the first part of a module's name; messages of any package count.
ROS = re.compile(r'(rclpy|rcl_interfaces|builtin_interfaces|cv_bridge|launch|launch_ros|tf2_ros'
                 r'|rosidl_runtime_py|ament_index_python|message_filters|std_srvs|\w+_msgs)$')
GENERATED = frozenset({'msg', 'srv', 'action'})  # of quantvla_ros, by rosidl
ROS_PACKAGES = frozenset({'nodes', 'faults', 'cli'})
TORCH_FREE = frozenset({'errors', 'contract', 'observation', 'control', 'sim', 'report'})


@dataclass(frozen=True)
class Import:
    """One imported name in dotted form, its line, and whether it waits for a call.

    `lazy` is what happens inside a function, or only for a type checker.
    """

    module: str
    line: int
    lazy: bool


def read_order(page: Path) -> dict[str, int]:
    """Rank of each package by the line `errors < contract < ...` of `page`; equal ranks are peers.

    Raises:
        SystemExit: the page has no such line.
    """
    for line in page.read_text(encoding='utf-8').splitlines():
        if line.startswith('errors < '):
            levels = [level.split(',') for level in line.split('<')]
            return {name.strip(): rank for rank, names in enumerate(levels) for name in names}
    raise SystemExit(f"{page}: expected a line 'errors < ... < cli', found none")


def imports(root: Path, path: Path) -> Iterator[Import]:
    """All imports of one file, relative ones resolved; `from a import b` gives `a.b`."""
    parents = path.relative_to(root).parent.parts

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            start = '.'.join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f'{start}.{alias.name}', node.lineno, lazy)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.If):
            lazy = lazy or ast.unparse(node.test).endswith('TYPE_CHECKING')
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy)

    yield from visit(ast.parse(path.read_text(encoding='utf-8'), filename=str(path)), lazy=False)


def needs_ros(root: Path, module: str, seen: set[str]) -> bool:
    """Whether importing `module` (or the module that has this name in it) imports ROS at once."""
    parts = module.split('.')
    if parts[0] != PACKAGE:
        return ROS.match(parts[0]) is not None
    if len(parts) > 1 and parts[1] in GENERATED:
        return True
    candidates = (root.joinpath(*parts[:end]) for end in (len(parts), len(parts) - 1))
    for base in candidates:
        for path in (base.with_suffix('.py'), base / '__init__.py'):
            if path.exists():
                if str(path) in seen:
                    return False
                seen.add(str(path))
                return any(
                    needs_ros(root, imported.module, seen)
                    for imported in imports(root, path)
                    if not imported.lazy
                )
    return False


def complaint(root: Path, own: str, imported: Import, order: dict[str, int]) -> str | None:
    """What is wrong with `imported` in package `own`, or None."""
    parts = imported.module.split('.')
    if parts[0] == PACKAGE and len(parts) > 1:
        target = FACADE.get(parts[1], parts[1])
        if target in GENERATED:
            return ros_complaint(own, imported)
        if target == own or target.startswith('__'):
            return None
        if target not in order:
            return f'{imported.module}: the package {target!r} has no place in the order'
        if order[target] > order[own]:
            return f'{own} must not import {imported.module}: imports point to the left only'
        if order[target] == order[own]:
            return f'{own} must not import {imported.module}: peers do not import each other'
        if own == 'cli' and not imported.lazy and needs_ros(root, imported.module, set()):
            return f'cli imports {imported.module} at the top, which needs ROS: inside run'
        return None
    if ROS.match(parts[0]):
        return ros_complaint(own, imported)
    if parts[0] in ('torch', 'triton') and own in TORCH_FREE:
        return f'{own} must not import {parts[0]}'
    return None


def ros_complaint(own: str, imported: Import) -> str | None:
    """Rules for rclpy and messages."""
    if own not in ROS_PACKAGES:
        return f'{own} must not import {imported.module}: only nodes know ROS'
    if own == 'cli' and not imported.lazy:
        return f'cli imports {imported.module} at the top, which needs ROS: inside run'
    return None


def check(root: Path) -> list[str]:
    """Violations below `root`/quantvla_ros, one line each."""
    order = read_order(root / 'docs' / 'architecture.md')
    found = []
    for path in sorted((root / PACKAGE).rglob('*.py')):
        inside = path.relative_to(root / PACKAGE)
        own = inside.parts[0].removesuffix('.py')
        if own in ('__init__', '__main__'):
            continue  # the facade and the command line's door: above everything, imported by none
        where = f'{PACKAGE}/{inside.as_posix()}'
        if own not in order:
            found.append(f'{where}:1: {own!r} has no place in the order of docs/architecture.md')
            continue
        seen = set()
        for imported in imports(root, path):
            problem = complaint(root, own, imported, order)
            if problem is not None and (imported.line, problem) not in seen:
                seen.add((imported.line, problem))
                found.append(f'{where}:{imported.line}: {problem}')
    return found


if __name__ == '__main__':
    violations = check(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
    for violation in violations:
        print(violation)
    sys.exit(1 if violations else 0)
