# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Asks a running joint_trajectory_controller for its parameters, once each time that it appears.

What they mean is in `control.controller_facts`. A controller that does not answer, such as the
simulated arm, is left alone.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import parameter_value_to_python
from rclpy.task import Future

from quantvla_ros.control.controller_facts import ASKED, advice


class ControllerFacts:
    """See the module.

    Args:
        node: asks, and says what is wrong.
        controller: name of the controller's node.
        joints: that we send.

    Attributes:
        controller: its name.
        found: parameters by name, as far as the controller has them.
        advice: what is wrong, one line each.
    """

    def __init__(self, node: LifecycleNode, controller: str, joints: Sequence[str]) -> None:
        self._node, self.controller, self._joints = node, controller, tuple(joints)
        self.found: dict[str, object] = {}
        self.advice: list[str] = []
        self._list = node.create_client(ListParameters, f'{controller}/list_parameters')
        self._get = node.create_client(GetParameters, f'{controller}/get_parameters')
        self._asked = False

    def look(self) -> None:
        """Ask where the controller is there and has not been asked; to be called now and then."""
        there = self._list.service_is_ready() and self._get.service_is_ready()
        if there and not self._asked:
            request = ListParameters.Request(depth=ListParameters.Request.DEPTH_RECURSIVE)
            self._list.call_async(request).add_done_callback(self._on_names)
        elif not there:
            self.found, self.advice = {}, []
        self._asked = there

    def close(self) -> None:
        """Free everything."""
        for client in (self._list, self._get):
            self._node.destroy_client(client)

    def _on_names(self, future: Future) -> None:
        reply: Any = future.result()
        if reply is None:
            return
        # One name that a controller has not spoils the answer for all.
        names = [name for name in ASKED if name in reply.result.names]
        if names:
            self._get.call_async(GetParameters.Request(names=names)).add_done_callback(
                lambda answer: self._on_values(names, answer)
            )

    def _on_values(self, names: list[str], future: Future) -> None:
        reply: Any = future.result()
        if reply is None or len(reply.values) != len(names):
            return
        self.found = {
            name: _plain(parameter_value_to_python(value))
            for name, value in zip(names, reply.values, strict=True)
        }
        self.advice = advice(self.found, self._joints)
        for line in self.advice:
            self._node.get_logger().warning(f'{self.controller}: {line}')


def _plain(value: Any) -> object:
    return value if isinstance(value, str | bool | int | float) or value is None else list(value)
