# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A ROS domain of our own, for runs that bring their own arm and must not hear another run's.

The locks are those of scripts/test.sh, so tests and runs on one machine keep out of each other's
way; the system takes a lock back when its process ends, however it ends. Knows files and the
environment; knows nothing of ROS.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from quantvla_ros.errors import QuantVLAError

DOMAIN, RANGE = 'ROS_DOMAIN_ID', 'ROS_AUTOMATIC_DISCOVERY_RANGE'
_LAST = 100  # beyond, a domain's ports are among those that the system hands out itself


@contextlib.contextmanager
def own_domain() -> Iterator[int | None]:
    """Set, for us and our children, a domain that nobody here uses; held until the end.

    One that the user has set in the environment stays, and None is given.

    Raises:
        QuantVLAError: all are in use.
    """
    if os.environ.get(DOMAIN):
        yield None
        return
    domain, lock = _lock_any()
    kept = {name: os.environ.get(name) for name in (DOMAIN, RANGE)}
    os.environ[DOMAIN] = str(domain)
    # All of it runs here; other machines have domains, and runs, of their own.
    os.environ.setdefault(RANGE, 'LOCALHOST')
    try:
        yield domain
    finally:
        os.close(lock)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _lock_any() -> tuple[int, int]:
    """A domain, and the descriptor of its lock."""
    first = os.getpid() % _LAST  # runs that start together do not try the same ones
    for offset in range(_LAST):
        domain = (first + offset) % _LAST + 1
        path = Path(tempfile.gettempdir()) / f'quantvla_ros_domain_{domain}.lock'
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        return domain, lock
    raise QuantVLAError(
        f'expected a free ROS domain from 1 to {_LAST}, found all in use on this machine; '
        f'end other runs, or set {DOMAIN}'
    )
