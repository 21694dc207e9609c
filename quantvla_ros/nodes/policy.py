# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `policy`: cameras, joints and a command in, chunks of joint positions out.

Transitions only: its parts are put together in `assembly`, what it is said to do is in `reporter`,
what is decided when in `supervisor`, what is heard in `inputs`, what is sent in `outputs`.
"""
from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable

from rcl_interfaces.msg import SetParametersResult
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter

from quantvla_ros.control.limits import narrowed
from quantvla_ros.errors import QuantVLAError
from quantvla_ros.nodes.assembly import Assembly, assemble, free_memory
from quantvla_ros.nodes.clock import missing_clock
from quantvla_ros.nodes.loading import Loader
from quantvla_ros.nodes.parameters import POLICY_PARAMETERS, declare, values
from quantvla_ros.nodes.reporter import Reporter
from quantvla_ros.nodes.states import Cause, State, Status
from quantvla_ros.nodes.task import Tasks

_PATIENCE = 3.0  # s to wait for a transition that is under way when the process is to stop

_Transition = Callable[['PolicyNode', LifecycleState], TransitionCallbackReturn]


def _named_fault(transition: _Transition) -> _Transition:
    """Say what went wrong: rclpy takes an exception in a transition for an error without a word."""

    @functools.wraps(transition)
    def wrapped(node: PolicyNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            with node.transition:
                return transition(node, state)
        except Exception:
            node.get_logger().fatal(f'{transition.__name__} failed:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR

    return wrapped


def _not_run(error: Exception) -> None:
    """What a thread's fault leads to where no `process.run` runs the node."""
    raise error


class PolicyNode(LifecycleNode):
    """See the module.

    Args:
        load_policy: what loads a policy; the engine's by default.
    """

    def __init__(self, load_policy: Loader | None = None) -> None:
        super().__init__('policy')
        self._load_policy = load_policy
        self._loaded: Assembly | None = None
        self.transition = threading.RLock()  # held while one is under way
        self._stopping = threading.Event()
        self.crashed: Callable[[Exception], None] = _not_run
        declare(self, POLICY_PARAMETERS)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._tasks = Tasks(
            self, lambda: self._loaded, lambda: self._reporter.current(), self.now
        )
        self._reporter = Reporter(
            self, lambda: self._loaded, self._tasks, lambda error: self.crashed(error)
        )
        self._reporter.start()

    def now(self) -> int:
        """Time of the node's clock, ns."""
        return self.get_clock().now().nanoseconds

    def _on_parameters(self, parameters: list[RosParameter]) -> SetParametersResult:
        """Take a smaller share of the limits at once; refuse a larger one while active."""
        loaded = self._loaded
        for parameter in parameters:
            if parameter.name == 'limit_share' and loaded is not None:
                wanted = narrowed(loaded.contract.limits, parameter.value)
                if lines := loaded.supervisor.limit(wanted):
                    return SetParametersResult(
                        successful=False,
                        reason=f'limits may only be narrowed while the node is active: {lines[0]}',
                    )
        return SetParametersResult(successful=True)

    @_named_fault
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, compare, warm up, subscribe."""
        begun = time.monotonic()
        try:
            loaded = self._loaded = assemble(
                self, values(self, POLICY_PARAMETERS), self._load_policy, self._reporter.changed,
                self.crashed,
            )
        except QuantVLAError as error:
            refusal = str(error)
        else:
            self._say_ready(loaded, time.monotonic() - begun)
            self._reporter.changed(Status(State.INACTIVE, Cause.NOT_ACTIVE))
            return super().on_configure(state)
        # Here nobody has what was loaded any more, as the error's traceback had.
        free_memory(self.get_logger().warning)
        self.get_logger().error(f'configure: {refusal}')
        self._reporter.changed(Status(State.UNCONFIGURED, Cause.NO_POLICY, refusal, refusal))
        return TransitionCallbackReturn.FAILURE

    def _say_ready(self, loaded: Assembly, seconds: float) -> None:
        """What is ready, after how many seconds."""
        info, running = loaded.policy.info, loaded.policy.running
        if running.fallback is not None:
            self.get_logger().warning(f'fallback: {running.fallback}')
        self.get_logger().info(running.ready(seconds))
        self.get_logger().info(
            f'{info.artifact_id}: {info.precision} on {running.device}, engine {running.engine}, '
            f'{info.weight_bytes / 2**20:.1f} MiB of weights, chunks of {info.chunk_size} actions '
            f'at {1.0 / loaded.contract.control_period:g} Hz, for {loaded.contract.robot}'
        )

    @_named_fault
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Allow output; the first chunk comes once the inputs are fresh."""
        loaded = self._loaded
        assert loaded is not None
        refusal = missing_clock(self, self._stopping)
        if refusal is not None:
            self.get_logger().error(f'activate: {refusal}')
            self._reporter.changed(
                Status(State.INACTIVE, Cause.NOT_ACTIVE, refusal, 'no clock')
            )
            return TransitionCallbackReturn.FAILURE
        result = super().on_activate(state)
        given = values(self, POLICY_PARAMETERS)
        loaded.use(given)
        loaded.supervisor.activate()
        loaded.inference.serve(loaded.supervisor, int(given['seed']))
        return result

    @_named_fault
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold, and send nothing more; the policy stays loaded."""
        assert self._loaded is not None
        self._loaded.supervisor.stop(Cause.NOT_ACTIVE)
        self._loaded.commands.wait_until_received()
        return super().on_deactivate(state)

    @_named_fault
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the policy."""
        self._unload()
        self._reporter.changed(Status(State.UNCONFIGURED, Cause.NO_POLICY))
        return super().on_cleanup(state)

    @_named_fault
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Hold where the node was active, then free everything."""
        self._hold()
        self._unload()
        self._reporter.changed(Status(State.FINALIZED, Cause.STOPPED))
        return super().on_shutdown(state)

    @_named_fault
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition failed: hold, free everything; the node can be configured again."""
        self._hold()
        self._unload()
        self._reporter.changed(
            Status(State.UNCONFIGURED, Cause.NO_POLICY, 'a transition failed, see log')
        )
        return TransitionCallbackReturn.SUCCESS

    def begin_stop(self) -> bool:
        """Hold now; False where a transition is under way that does not end within seconds."""
        self._stopping.set()
        self._hold()
        self._tasks.look()  # a goal that ran has ended
        if self.transition.acquire(timeout=_PATIENCE):
            self.transition.release()
            return True
        self.get_logger().warning('stopped while a policy was being loaded; leaving without it')
        return False

    def end_stop(self) -> None:
        """Drive the lifecycle to its end, from whatever state it is in."""
        try:
            self.trigger_shutdown()
        except rclpy_implementation.RCLError:
            self.get_logger().info('the lifecycle had ended already')
        self._reporter.stop()
        self._tasks.close()
        self._reporter.wait_until_received()

    def _hold(self) -> None:
        """Send a hold where the arm was commanded, and nothing after it. From any thread."""
        loaded = self._loaded
        if loaded is not None:
            loaded.supervisor.stop(Cause.STOPPED)
            loaded.commands.wait_until_received()

    def _unload(self) -> None:
        warn = self.get_logger().warning
        with self._reporter.looking:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close(warn)
        del loaded
        free_memory(warn)
