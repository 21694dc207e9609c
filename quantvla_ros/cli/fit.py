# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whether a policy fits a contract, as an error that lists every difference."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantvla_ros.contract.match import differences
from quantvla_ros.contract.types import Contract
from quantvla_ros.errors import ContractError

if TYPE_CHECKING:
    from quantvla_ros.engine.policy import PolicyInfo


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
