# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What configure does before anything is subscribed: load contract and policy, compare them.

Knows the node's parameters; knows nothing of ROS.
"""
from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from quantvla_ros.contract.load import load_contract
from quantvla_ros.contract.match import camera_counts, differences
from quantvla_ros.contract.types import Contract, OutputKind
from quantvla_ros.control.actions import check_supported
from quantvla_ros.control.limits import tightened
from quantvla_ros.control.robot_description import moveit_limits, urdf_limits
from quantvla_ros.engine.shapes import read_lengths
from quantvla_ros.errors import BackendError, ContractError, QuantVLAError

# load_policy(path, device=..., precision=..., engine=..., views=..., lengths=...,
#             allow_fallback=...) -> Policy
Loader = Callable[..., Any]


@dataclass(frozen=True)
class Settings:
    """The read-only parameters of the policy node; docs/node.md says what each is."""

    policy: str
    contract: str
    device: str
    precision: str
    threads: int
    engine: str
    prompt_lengths: str
    allow_fallback: bool
    robot_description: str = ''
    joint_limits: str = ''

    @classmethod
    def of(cls, given: Mapping[str, object]) -> Settings:
        """Those of the node's parameters, by name."""
        return cls(**{
            entry.name: _KINDS.get(entry.name, str)(given[entry.name]) for entry in fields(cls)
        })


_KINDS: dict[str, Callable[[Any], Any]] = {'threads': int, 'allow_fallback': bool}


@contextlib.contextmanager
def memory_named(device: str) -> Iterator[None]:
    """Where a GPU's memory runs out inside, say so as a user's error, with numbers and a remedy.

    Args:
        device: that it is for.
    Raises:
        BackendError: the memory was not enough.
    """
    try:
        yield
    except Exception as error:
        if 'torch' not in sys.modules:  # then it is not about that
            raise
        from quantvla_ros.engine.memory import shortage

        sentence = shortage(error, device)
        if sentence is None:
            raise
        raise BackendError(sentence) from error


def load(settings: Settings, load_policy: Loader | None = None) -> tuple[Contract, Any]:
    """Contract and policy, fit for each other.

    Args:
        settings: paths, device, precision, engine.
        load_policy: what loads a policy; the engine's by default.
    Raises:
        QuantVLAError: a path is missing, a file is wrong, the device's memory is not enough, or the
            two do not fit; in the last case the message is a diff, one line per difference.
    """
    for name in ('contract', 'policy'):
        if not getattr(settings, name):
            raise QuantVLAError(
                f'parameter {name}: expected a path, found none; give it with '
                f'-p {name}:=PATH or in the parameter file'
            )
    contract = narrowed_contract(load_contract(settings.contract), settings)
    check_supported(
        contract.action, twists=contract.output.kind is OutputKind.TWIST
    )
    if load_policy is None:
        load_policy = _engine(settings)
    with memory_named(settings.device):
        policy = load_policy(
            settings.policy,
            device=settings.device,
            precision=settings.precision or None,
            engine=settings.engine,
            views=camera_counts(contract),
            lengths=read_lengths(settings.prompt_lengths),
            allow_fallback=settings.allow_fallback,
        )
    info = policy.info
    lines = differences(
        contract,
        slots=info.slots,
        state_names=info.state_names,
        state_size=info.state_size,
        action_names=info.action_names,
        action_size=info.action_size,
        control_period=info.control_period,
    )
    if lines:
        raise ContractError(
            f'the policy {settings.policy} ({info.artifact_id}) does not fit the contract '
            f'{settings.contract}:\n' + '\n'.join(f'  - {line}' for line in lines)
        )
    return contract, policy


def narrowed_contract(contract: Contract, settings: Settings) -> Contract:
    """The contract with limits that the robot's own descriptions do not exceed.

    Raises:
        ContractError: a description is wrong, or contradicts the contract.
    """
    limits = dict(contract.limits)
    if settings.robot_description:
        limits = tightened(limits, urdf_limits(settings.robot_description), 'robot_description')
    if settings.joint_limits:
        units = {name: limit.unit for name, limit in limits.items()}
        limits = tightened(
            limits, moveit_limits(settings.joint_limits, units), settings.joint_limits
        )
    return contract if limits == contract.limits else replace(contract, limits=limits)


def _engine(settings: Settings) -> Loader:
    import torch

    from quantvla_ros.engine.policy import load_policy

    if settings.threads:
        torch.set_num_threads(settings.threads)
    return load_policy
