# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Faults around the node: clocks, the controller, others on it, processes, parameters."""
from __future__ import annotations

import math
import signal

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from quantvla_ros.faults import variants
from quantvla_ros.faults.case import Case, Expect, FaultsError, Need, Script
from quantvla_ros.faults.relay import BEST_EFFORT, PREFIX, RELIABLE
from quantvla_ros.faults.stage import ACTIVATE, CONFIGURE, DEACTIVATE, PATIENCE, Stage

_HOLD = 'hold with the reason'
_ARM = frozenset({Need.ARM})
_COMMANDS = frozenset({Need.COMMANDS})
_FOLLOW = frozenset({Need.ARM, Need.CONTROL_MSGS})
_GIVES_UP = 'elbow_pitch is 0.31 off'
_LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST, depth=1,
)


def _on_simulated_time(stage: Stage) -> None:
    """Arm and node on /clock, and the arm on its way again."""
    stage.transition(DEACTIVATE)
    stage.simulated_time(True)
    stage.transition(ACTIVATE)
    stage.move()


def _jump(seconds: float) -> Script:
    def script(stage: Stage) -> None:
        stage.clock.jump(seconds)

    return script


def _on_machine_time(stage: Stage) -> None:
    stage.transition(DEACTIVATE)
    stage.simulated_time(False)
    stage.transition(ACTIVATE)


def _new_process(stage: Stage) -> None:
    """A node that has heard of no clock: one that has keeps its last time."""
    stage.may_end = True
    stage.policy.end()
    stage.start_policy()
    stage.transition(CONFIGURE)
    stage.say(stage.setting.instructions[0])


def _silent_clock(stage: Stage) -> None:
    stage.set_parameter('policy', 'use_sim_time', True)


def _clock_comes(stage: Stage) -> None:
    stage.set_parameter('policy', 'use_sim_time', False)
    stage.transition(ACTIVATE)


def _arm_on_another_clock(stage: Stage) -> None:
    """The node on a /clock that is an hour ahead of the machine's, the arm on the machine's."""
    stage.clock.start()
    stage.clock.jump(3600.0)
    stage.set_parameter('policy', 'use_sim_time', True)


def _same_clock(stage: Stage) -> None:
    stage.set_parameter('policy', 'use_sim_time', False)
    stage.clock.close()


def _no_controller(stage: Stage) -> None:
    assert stage.commands is not None
    stage.commands.close()


def _controller(stage: Stage) -> None:
    assert stage.commands is not None
    stage.commands.open()


def _refuse(goals: float) -> Script:
    def script(stage: Stage) -> None:
        assert stage.controller is not None
        stage.controller.refuses = goals

    return script


def _give_up(words: str) -> Script:
    def script(stage: Stage) -> None:
        assert stage.controller is not None
        stage.controller.gives_up = words

    return script


def _press(pressed: bool) -> Script:
    def script(stage: Stage) -> None:
        assert stage.emergency is not None
        stage.emergency.publish(Bool(data=pressed))

    return script


def _no_reset_while_pressed(stage: Stage) -> str:
    answer = stage.operator.call(Trigger, 'policy/reset', Trigger.Request())
    return '' if not answer.success else 'it was reset with the emergency stop still pressed'


def _kill_arm(stage: Stage) -> None:
    stage.kill_arm()


def _start_arm(stage: Stage) -> None:
    stage.start_arm()


def _deaf_controller(stage: Stage) -> None:
    """A controller that asks for latched commands, which nobody offers."""
    assert stage.commands is not None
    stage.commands.close()
    stage.commands.open(_LATCHED)


def _hearing_controller(stage: Stage) -> None:
    assert stage.commands is not None
    stage.commands.close()
    stage.commands.open()


def _rival(stage: Stage) -> None:
    """Another publisher's trajectory to where the arm is now, for a second."""
    publisher = stage.node.create_publisher(
        JointTrajectory, PREFIX + stage.contract.action.topic, RELIABLE
    )
    stage.rivals.append(publisher)
    if not stage.until(lambda: publisher.get_subscription_count() >= 2, 10.0):
        raise FaultsError('the node does not listen to another publisher of commands')
    position = stage.record.position
    point = JointTrajectoryPoint(positions=position, velocities=[0.0] * len(position))
    point.time_from_start.sec = 1
    publisher.publish(
        JointTrajectory(joint_names=list(stage.contract.action.names), points=[point])
    )


def _no_rival(stage: Stage) -> None:
    while stage.rivals:
        stage.node.destroy_publisher(stage.rivals.pop())


def _unheard_publisher(stage: Stage) -> None:
    """A publisher of commands in words that promises less than the node asks for."""
    stage.rivals.append(
        stage.node.create_publisher(String, stage.contract.language.topic, BEST_EFFORT)
    )


def _widen(stage: Stage) -> None:
    stage.set_parameter('policy', 'limit_share', 0.6)


def _limits_only_narrow(stage: Stage) -> str:
    wider = stage.set_parameter('policy', 'limit_share', 0.9)
    fixed = stage.set_parameter('policy', 'device', 'cuda')
    beyond = stage.set_parameter('policy', 'limit_share', 7.0)
    taken = [
        name for name, answer in (
            ('a wider limit', wider), ('another device', fixed), ('a value out of range', beyond)
        ) if answer.successful
    ]
    return f'expected a refusal, found taken: {", ".join(taken)}' if taken else ''


def _restore_limits(stage: Stage) -> None:
    stage.transition(DEACTIVATE)
    stage.set_parameter('policy', 'limit_share', 1.0)
    stage.transition(ACTIVATE)


def _interrupt(stage: Stage) -> None:
    stage.policy.signal(signal.SIGINT)


def _terminate(stage: Stage) -> None:
    # Twice, as a launch file and a terminal do.
    stage.policy.signal(signal.SIGTERM)
    stage.policy.signal(signal.SIGINT)


def _start_again(stage: Stage) -> None:
    stage.start_policy()
    stage.begin()


def _deactivate(stage: Stage) -> None:
    stage.transition(DEACTIVATE)


def _activate(stage: Stage) -> None:
    if not stage.transition(ACTIVATE):
        raise FaultsError('the node refused to activate again')
    stage.until(lambda: stage.state != 'INACTIVE', PATIENCE)


CASES: tuple[Case, ...] = (
    Case(
        19, '/clock goes back by 20 s', 'forget, hold, go on in the new time', Expect.HOLDS,
        _jump(-20.0), _on_machine_time, ('clock jumped', 'clock went back'),
        prepare=_on_simulated_time, passes=True, dangerous=True, quick=True, needs=_ARM,
        catches_up=True,  # mending it is a jump ahead
    ),
    Case(
        20, '/clock jumps ahead by 20 s',
        'ages are judged anew; go on. To a controller on that clock its trajectory is over: it may '
        'go to the end of it as fast as the joints can',
        Expect.GOES_ON, _jump(20.0), _on_machine_time, prepare=_on_simulated_time, within=4.0,
        dangerous=True, needs=_ARM, catches_up=True,
    ),
    Case(
        21, 'use_sim_time without /clock', 'refuse to be activated, and say that there is no clock',
        Expect.WAITS, _silent_clock, _clock_comes, ('nothing publishes /clock',),
        prepare=_new_process, state='INACTIVE', within=5.0,
    ),
    Case(
        22, 'the node on /clock, the arm on its own', 'wait, and say that the clocks differ',
        Expect.WAITS, _arm_on_another_clock, _same_clock, ('this clock differ',), within=5.0,
        needs=_ARM,
    ),
    Case(
        29, 'a controller whose QoS does not fit', 'hold; said, with the policy that does not fit',
        Expect.SAYS, _deaf_controller, _hearing_controller, ('does not fit',), within=5.0,
        needs=_COMMANDS,
    ),
    Case(
        29, 'a publisher whose QoS does not fit', 'said, with the policy that does not fit',
        Expect.GOES_ON, _unheard_publisher, _no_rival, ('cannot be heard',), within=5.0,
    ),
    Case(
        34, 'limits are widened while the arm moves', 'refused; narrower ones are taken',
        Expect.GOES_ON, _widen, _restore_limits, check=_limits_only_narrow, dangerous=True,
    ),
    Case(
        35, 'the controller refuses every goal', 'count; after some in a row stop and say so',
        Expect.STOPS, _refuse(math.inf), _refuse(0), ('the controller refused the goal',),
        within=15.0, needs=_FOLLOW, variant=variants.FOLLOW,
    ),
    Case(
        35, 'the controller gives up every goal', "count; stop, in the controller's own words",
        Expect.STOPS, _give_up(_GIVES_UP), _give_up(''),
        (f'PATH_TOLERANCE_VIOLATED ({_GIVES_UP})',), within=15.0, needs=_FOLLOW,
        variant=variants.FOLLOW,
    ),
    Case(
        35, 'the controller refuses three goals', 'go on from where the arm is',
        Expect.GOES_ON, _refuse(3), _refuse(0), ('the controller refused the goal',),
        within=6.0, needs=_FOLLOW, variant=variants.FOLLOW,
    ),
    Case(
        36, 'the controller goes away', f'{_HOLD}; once it is back, from where the arm is',
        Expect.HOLDS, _no_controller, _controller, ('the controller has gone away',), within=4.0,
        quick=True, needs=_COMMANDS,
    ),
    Case(
        39, 'the arm crashes and is started again', 'hold; buffers recover; no stale command',
        Expect.HOLDS, _kill_arm, _start_arm, ('nothing new has arrived',), quiet=True,
        needs=_ARM,
    ),
    Case(
        40, 'another commands the same controller', 'leave the arm to it, and say so',
        Expect.LEAVES, _rival, _no_rival, ("another publisher's trajectory",), within=3.0,
        dangerous=True, needs=_COMMANDS,
    ),
    Case(
        41, 'SIGINT while the arm moves', 'hold sent last; status 0', Expect.ENDS, _interrupt,
        _start_again,
    ),
    Case(
        41, 'SIGTERM and SIGINT at once', 'hold sent last; status 0', Expect.ENDS, _terminate,
        _start_again,
    ),
    Case(
        42, 'deactivated while the arm moves', 'hold; nothing after it until activated',
        Expect.HOLDS, _deactivate, _activate, ('until the node is activated',), state='INACTIVE',
        level='OK',
    ),
    Case(
        54, 'the emergency stop is pressed', 'hold at once; latch until released and ~/reset',
        Expect.STOPS, _press(True), _press(False), ('emergency stop',),
        check=_no_reset_while_pressed, within=1.0, quick=True,
        needs=frozenset({Need.EMERGENCY_STOP}),
    ),
)
