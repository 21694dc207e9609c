# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Policies for a contract: whether one fits, as an error that lists every difference."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantvla_ros.contract.match import camera_counts, differences
from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import ContractError

if TYPE_CHECKING:
    from quantvla_ros.engine.policy import Policy, PolicyInfo


def load_fitting(
    path: Path, contract: Contract, device: str, *, allow_fallback: bool = False
) -> Policy:
    """Load a policy as the node would run it, and compare it with the contract.

    Raises:
        ContractError: they do not fit; one line per difference.
        BackendError: it does not run there, and no fallback is allowed; or it computes no numbers.
    """
    from quantvla_ros.engine.policy import load_policy

    policy = load_policy(
        path, device=device, views=camera_counts(contract), allow_fallback=allow_fallback
    )
    check_policy_fit(path, contract, policy.info)
    policy.runner.check()
    return policy


def check_fit(path: Path, contract: Contract, **wanted: Any) -> None:
    """Compare a contract with what `contract.match.differences` is told of a policy.

    Raises:
        ContractError: they do not fit; one line per difference.
    """
    lines = differences(contract, **wanted)
    if lines:
        raise ContractError(
            f'{path} does not fit the contract {contract.source}:\n'
            + '\n'.join(f'  - {line}' for line in lines)
        )


def check_policy_fit(path: Path, contract: Contract, info: PolicyInfo) -> None:
    """As `check_fit`, for a loaded policy."""
    check_fit(
        path,
        contract,
        slots=info.slots,
        state_names=info.state_names,
        state_size=info.state_size,
        action_names=info.action_names,
        action_size=info.action_size,
        control_period=info.control_period,
    )
