# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The progress line: its times are honest, on a terminal and in a log."""
import io

import pytest

from quantvla_ros.cli.progress import ProgressLine, duration


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def clock():
    return Clock()


def lines(stream):
    return [line for line in stream.getvalue().split('\r\x1b[K') if line]


def test_the_first_step_counts_with_the_time_it_took(clock):
    stream = Terminal(True)
    progress = ProgressLine(('only',), stream, clock=clock)
    clock.now += 10
    progress('only', 1, 4)  # reported when it is over: 10 s each
    assert lines(stream)[-1] == '[1/1] only: 1 of 4, 30 s left'


def test_a_slow_start_is_forgotten(clock):
    stream = Terminal(True)
    progress = ProgressLine(('only',), stream, clock=clock)
    clock.now += 60  # memory, caches, tuned kernels
    for step in range(100):
        clock.now += 1
        progress('only', step + 1, 200)
    assert lines(stream)[-1] == '[1/1] only: 100 of 200, 1 min 40 s left'


def test_the_time_of_the_whole_comes_from_what_the_stages_cost(clock):
    stream = Terminal(True)
    progress = ProgressLine(('read', 'one', 'two'), stream, costs={'one': 10, 'two': 30},
                            clock=clock)
    clock.now += 500
    progress('read', 1, 1)  # has no cost: it says nothing about the others
    assert '(all' not in lines(stream)[-1]
    for step in range(5):
        clock.now += 2
        progress('one', step + 1, 10)
    assert lines(stream)[-1] == '[2/3] one: 5 of 10, 10 s left (all: 1 min 10 s)'
    clock.now += 10
    progress('one', 10, 10)
    assert lines(stream)[-1] == '[2/3] one: 10 of 10, 0 s left (all: 1 min 00 s)'
    clock.now += 2
    progress('two', 1, 30)
    assert lines(stream)[-1] == '[3/3] two: 1 of 30, 58 s left'


def test_an_unknown_total_or_stage_is_shown_as_a_count(clock):
    stream = Terminal(True)
    progress = ProgressLine(('one',), stream, clock=clock)
    progress('one', 3, None)
    progress('aside', 1, None)
    assert lines(stream) == ['[1/1] one: 3', 'aside: 1']


def test_a_log_gets_a_few_plain_lines(clock):
    stream = Terminal(False)
    with ProgressLine(('short', 'long'), stream, clock=clock) as progress:
        progress('short', 1, 1)
        for step in range(240):
            clock.now += 0.125
            progress('long', step + 1, 240)
    text = stream.getvalue()
    assert '\r' not in text and '\x1b' not in text
    assert text.splitlines()[0] == '[2/2] long: 80 of 240, 20 s left'
    assert text.splitlines()[-1] == '[2/2] long: 240 of 240, 0 s left'
    assert len(text.splitlines()) <= 4


def test_a_short_command_leaves_nothing_in_a_log(clock):
    stream = Terminal(False)
    with ProgressLine(('one', 'two'), stream, clock=clock) as progress:
        progress('one', 1, 1)
        clock.now += 5
        progress('two', 1, 1)
    assert stream.getvalue() == ''


def test_a_note_stays(clock):
    stream = Terminal(True)
    with ProgressLine(('one',), stream, clock=clock) as progress:
        progress('one', 1, 2)
        progress.note('something to know')
    assert 'something to know\n' in stream.getvalue() and stream.getvalue().endswith('\r\x1b[K')


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (0.4, 45, 59.6, 200, 3600, 3900)] == [
        '0 s', '45 s', '1 min 00 s', '3 min 20 s', '1 h 00 min', '1 h 05 min']
