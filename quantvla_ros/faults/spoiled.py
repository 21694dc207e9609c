# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The policy node as a process of its own, with a policy that can be spoiled from outside.

    python -m quantvla_ros.faults.spoiled --ros-args -p policy:=DIR -p contract:=FILE

Everything but the policy's numbers is what `python -m quantvla_ros policy` runs: the node takes
what loads its policy as an argument, and here that wraps the engine's. A second node in the
process, `spoiler`, has what is wrong as parameters.
"""
from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from quantvla_ros.faults.spoils import SpoiledPolicy, of_another_robot, parse
from quantvla_ros.nodes.process import StopSignal, run

NODE = 'spoiler'
SPOIL, LOAD = 'spoil', 'load'  # parameters: of chunks, of loading


def _spoiler() -> Any:
    """The node with the parameters; made here, so that a signal during the imports is heard."""
    from rcl_interfaces.msg import SetParametersResult
    from rclpy.node import Node

    from quantvla_ros.errors import QuantVLAError

    class Spoiler(Node):
        """What is wrong, as parameters."""

        crashed: Callable[[Exception], None]

        def __init__(self) -> None:
            super().__init__(NODE)
            self.spoil, self.load = '', ''
            for name in (SPOIL, LOAD):
                self.declare_parameter(name, '')
            self.add_on_set_parameters_callback(self._take)

        def begin_stop(self) -> bool:
            """Nothing to hold."""
            return True

        def end_stop(self) -> None:
            """Nothing to free."""

        def _take(self, parameters: list[Any]) -> SetParametersResult:
            for parameter in parameters:
                if parameter.name == SPOIL:
                    try:
                        if parameter.value:
                            parse(parameter.value)
                    except QuantVLAError as error:
                        return SetParametersResult(successful=False, reason=str(error))
                    self.spoil = parameter.value
                elif parameter.name == LOAD:
                    self.load = parameter.value
            return SetParametersResult(successful=True)

    return Spoiler()


def loader(spoiler: Any) -> Callable[..., Any]:
    """What loads the policy that the node asks for, or what `spoiler.load` names in its place.

    'memory': the device has none left; 'robot': the policy is of a robot with one joint less;
    'slow:S': its first inference takes S seconds more; anything else: a directory.
    """

    def load(path: str, **options: Any) -> SpoiledPolicy:
        import torch

        from quantvla_ros.engine.policy import load_policy

        word, _, number = spoiler.load.partition(':')
        if word == 'memory':
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 4.00 GiB')
        known = word in ('', 'robot', 'slow')
        policy = load_policy(path if known else spoiler.load, **options)
        return SpoiledPolicy(
            policy, lambda: spoiler.spoil,
            info=of_another_robot(policy.info) if word == 'robot' else None,
            warm_up=float(number) if word == 'slow' else 0.0,
        )

    return load


def _nodes() -> list[object]:
    import torch

    from quantvla_ros.nodes.policy import PolicyNode

    # The arm's process and the one that plays the faults need a core as well.
    torch.set_num_threads(1)
    spoiler = _spoiler()
    return [PolicyNode(load_policy=loader(spoiler)), spoiler]


if __name__ == '__main__':
    sys.exit(run(_nodes, sys.argv[1:], StopSignal()))
