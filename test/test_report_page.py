# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The calibration and evaluation pages: whole, self-contained, escaped, and honest about gaps."""
import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from quantvla_ros.report import compare, paired
from quantvla_ros.report.calibration_data import (
    Action,
    CalibrationData,
    Change,
    ChunkError,
    Chunks,
    Coverage,
    EpisodeGroup,
    FrameResult,
    Group,
    Header,
    HeadResult,
    HeldOut,
    LayerResult,
    LeftOut,
    MemoryRow,
)
from quantvla_ros.report.chart import linear, logarithmic
from quantvla_ros.report.chunk_section import SHOWN, joint_errors
from quantvla_ros.report.evaluation_page import EvaluationData, render_evaluation
from quantvla_ros.report.html import escape, join, tag
from quantvla_ros.report.numbers import number, percent, size
from quantvla_ros.report.page import render, write_page

HOSTILE = '<script>alert("x")</script><img src=//evil/x onerror=\'a\'>&amp;\x00\ud800\u202e'
VOID = {'br', 'img', 'meta', 'hr', 'wbr'}


def layers(blocks: int) -> tuple[LayerResult, ...]:
    parts = ('query', 'key', 'value', 'output', 'gate', 'up', 'down')
    return tuple(
        LayerResult(
            name=f'backbone.layers.{block}.{part}_proj',
            role='MLP of the language backbone' if part in ('gate', 'up', 'down') else
            'attention projections of the language backbone',
            part=part,
            bits=8 if part == 'down' else 4,
            shape=(64, 32),
            error=Change(0.08, 0.04 + 0.001 * block),
            input_max=12.0 if part in ('query', 'key', 'value') else 30.0,
            input_rms=1.5,
            outlier_ratio=9.0,
        )
        for block in range(blocks)
        for part in parts
    )


def frame(joints: int, rows: int = 10, seed: int = 0, words: str = 'lift it') -> FrameResult:
    random = np.random.default_rng(seed)
    teacher = random.normal(size=(rows, joints)).astype(np.float32)
    return FrameResult(
        pictures={'overhead': random.integers(0, 255, (24, 32, 3), np.uint8)},
        instruction=words,
        episode=f'episode {seed}',
        time=1.5,
        teacher=teacher,
        student=teacher + random.normal(size=teacher.shape).astype(np.float32) * 0.05,
        error=0.05 - 0.001 * seed,
    )


def calibration(blocks: int = 5, heads: int = 8, joints: int = 5, frames: int = 3, **changed):
    data = CalibrationData(
        header=Header(
            robot='tabletop', artifact_id='0123456789ab', recipe='w4a8', recipe_text='bits: 4\n',
            precision='w4a8', layout='paper', model='pi05', date='2026-01-02', seed=0,
            versions={'quantvla_ros': '1.0'}, float_bytes=4000, quantized_bytes=1000,
            samples=64, held_out=16, linear_layers=100, kept={'sensitive': ('head.q',)},
        ),
        layers=layers(blocks),
        head=tuple(
            HeadResult(
                alpha=tuple(1.0 if h else math.exp(0.3) for h in range(heads)), beta=1.05,
                logits=Change(0.1, 0.09), output=Change(0.1, 0.09),
            )
            for _ in range(blocks)
        ),
        held_out=HeldOut(
            corrected=ChunkError(0.01, 0.1, 0.031), uncorrected=ChunkError(0.02, 0.2, 0.047),
            steps=(0.01, 0.02, 0.03),
        ),
        chunks=Chunks(
            actions=tuple(Action(f'joint_{i}', 'rad', (-3.0, 3.0)) for i in range(joints)),
            period=0.05,
            frames=tuple(frame(joints, seed=seed) for seed in range(frames)),
        ),
        memory=(MemoryRow('backbone', 3000, 700, '4 bits'), MemoryRow('vision', 1000, 300)),
        coverage=Coverage(
            episodes=(EpisodeGroup('a', 'lift it', 100, 40), EpisodeGroup('b', 'drop it', 90, 24)),
            phases=(Group('still', 100, 4), Group('moving', 90, 60)),
            left_out=(LeftOut('/joint_states', 'too old', 7),),
            bags={'bag': 'ab' * 32},
        ),
        interface={'layers.0.v_proj': 1.02},
        limit=0.3,
    )
    return dataclasses.replace(data, **changed)


def evaluation(policies=('w4a8-none', 'w4a8-both'), joints: int = 5, words: str = 'lift it'):
    random = np.random.default_rng(0)
    names, units = [f'joint_{i}' for i in range(joints)], ['rad'] * joints
    shape = (12, 4, 6, joints)  # observations, states, rows, joints
    states = random.normal(size=shape)
    moments = [compare.Moment(f'ep{i % 6}', i, 0.1 * i, words) for i in range(shape[0])]
    theirs = compare.Chunks(states[:, -1], states)
    comparisons = []
    for policy in policies:
        moved = states + 0.05 * random.normal(size=shape)
        ours = compare.Chunks(moved[:, -1], moved)
        found = compare.compare(ours, theirs, moments, names, units, {names[-1]: 0.0})
        comparisons.append({'policy': policy, **found})
    labels = [*policies, 'float']
    won = {seed: seed % 10 > 0 for seed in range(100)}
    lost = {seed: done and seed % 9 > 0 for seed, done in won.items()}
    done = {'done': 90, 'of': 100, 'low': 0.83, 'high': 0.94, 'mean_steps': 80.0}
    content = {
        'about': {'date': '2026-01-02', 'arguments': {'policy': list(policies)}},
        'open_loop': {
            'observations': 12, 'episodes': 6, 'actions': 72, 'names': names, 'units': units,
            'against': 'float', 'comparisons': comparisons,
            'holding_still': {'rms_error': [0.2] * joints},
            'policies': [{'label': label, 'rms_error': [0.1] * joints} for label in labels],
        },
        'tabletop': {
            'scenes': 100, 'control_period': 0.05, 'against': 'float',
            'policies': [{'label': label, 'success': {'push': done, 'all': done}}
                         for label in labels],
            'comparisons': [{'policy': policy, **paired.paired(lost, won)} for policy in policies],
        },
    }
    return EvaluationData(json.loads(json.dumps(content)))


class Page(HTMLParser):
    """Elements in order, with every one closed; the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        assert len(attributes) == len(dict(attributes)), f'{name}: an attribute twice'
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open and self.open.pop() == name

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ('script', 'style'):
            self.text.append(data)

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]


PAGES = {
    'calibration': lambda: render(calibration()),
    'a large calibration': lambda: render(calibration(18, 8, 60, 8)),
    'one block, one head, one joint': lambda: render(calibration(1, 1, 1, 1)),
    'no layers measured': lambda: render(calibration(layers=(), head=(), memory=())),
    'no frames': lambda: render(calibration(frames=0)),
    'evaluation': lambda: render_evaluation(evaluation()),
    'evaluation of one policy': lambda: render_evaluation(evaluation(('w4a8',))),
    'evaluation with 60 joints': lambda: render_evaluation(evaluation(('a', 'b'), 60)),
}


@pytest.fixture(params=PAGES.values(), ids=PAGES.keys(), scope='module')
def page(request):
    return request.param()


def test_every_element_is_closed_and_every_anchor_leads_somewhere(page):
    read = Page(page)
    ids = [attributes['id'] for _, attributes in read.elements if 'id' in attributes]
    assert len(ids) == len(set(ids)) > 0
    for attributes in read.all('a'):
        assert attributes['href'].removeprefix('#') in ids


def test_a_page_loads_nothing_from_anywhere(page):
    # It is opened on robots and trains without a network, and must not tell anyone that it was.
    for name, attributes in Page(page).elements:
        assert name not in ('link', 'iframe', 'object', 'embed', 'base', 'form')
        for key, value in attributes.items():
            if key in ('src', 'href', 'srcset', 'data', 'poster', 'action'):
                assert value.startswith(('data:image/jpeg;base64,', '#')), (name, key)
            assert not key.startswith('on')
    styles = re.search(r'<style>(.*?)</style>', page, re.S).group(1)
    assert 'url(' not in styles and '@import' not in styles and '</' not in styles


def test_the_browser_is_told_to_run_no_script_but_ours(page):
    import base64
    import hashlib

    scripts = re.findall(r'<script>(.*?)</script>', page, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    (policy,) = [a['content'] for a in Page(page).all('meta') if 'http-equiv' in a]
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_every_plot_and_picture_has_words(page):
    read = Page(page)
    for attributes in read.all('svg'):
        if attributes.get('role') == 'img':
            assert len(attributes['aria-label']) > 10
    assert all(attributes['alt'] for attributes in read.all('img'))


def test_the_same_data_give_the_same_page():
    assert render(calibration()) == render(calibration())
    assert render_evaluation(evaluation()) == render_evaluation(evaluation())


def hostile(value):
    """The same data with markup in every string."""
    if isinstance(value, str):
        return HOSTILE
    if dataclasses.is_dataclass(value):
        fields = {f.name: hostile(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return type(value)(**fields)
    if isinstance(value, tuple):
        return tuple(hostile(item) for item in value)
    if isinstance(value, dict):
        return {HOSTILE if isinstance(key, str) else key: hostile(v) for key, v in value.items()}
    return value


def test_no_string_of_the_data_becomes_markup():
    # Instructions are whatever an operator typed, names of topics whatever a bag holds.
    written = render(hostile(calibration()))
    written.encode('utf-8')
    plain, read = Page(render(calibration())), Page(written)
    assert [n for n, _ in read.elements if n in ('script', 'img')] == [
        n for n, _ in plain.elements if n in ('script', 'img')
    ]
    assert '<script>alert' not in written and '\x00' not in written
    assert any('<script>alert("x")</script>' in text for text in read.text)


def test_no_string_of_an_evaluation_becomes_markup():
    data = evaluation((HOSTILE, 'other'), words=HOSTILE)
    read = Page(render_evaluation(data))
    assert len(read.all('script')) == 1 and read.all('img') == []


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_shown_and_break_nothing(value):
    data = calibration(2, 2, 2, 2)
    broken = dataclasses.replace(
        data,
        layers=(
            dataclasses.replace(
                data.layers[0], error=Change(value, value), input_max=value, input_rms=value,
                outlier_ratio=value,
            ),
            *data.layers[1:],
        ),
        head=(
            HeadResult((value, 1.0), value, value, '', Change(value, value), Change(value, 0.1)),
            *data.head[1:],
        ),
        held_out=HeldOut(ChunkError(value, value, value), steps=(0.1, value)),
        chunks=dataclasses.replace(
            data.chunks,
            frames=(
                dataclasses.replace(
                    data.chunks.frames[0], error=value,
                    student=np.full_like(data.chunks.frames[0].student, value),
                ),
                *data.chunks.frames[1:],
            ),
        ),
    )
    written = render(broken)
    text = ' '.join(Page(written).text)
    assert 'Not usable' in text
    assert ('not a number' if math.isnan(value) else 'infinite') in text
    for attribute in re.findall(r' (?:c?[xy][12]?|d|style)="([^"]*)"', written):
        assert 'nan' not in attribute and 'inf' not in attribute


def test_the_verdict_follows_the_error_and_names_harm():
    def words(relative, plain):
        errors = HeldOut(ChunkError(0.01, 0.1, relative), ChunkError(0.01, 0.1, plain))
        return ' '.join(Page(render(calibration(held_out=errors))).text)

    assert 'Close to the float policy' in words(0.05, 0.08)
    assert 'Somewhat apart' in words(0.06, 0.08)
    assert 'Far from the float policy' in words(0.2, 0.3)
    assert 'do harm' in words(0.05, 0.04)
    assert 'change little' in words(0.05, 0.0502)
    assert 'it would be 8.0\u202f%' in words(0.05, 0.08)


def test_the_joint_that_is_off_most_comes_first_whatever_its_unit():
    teacher = np.stack([np.linspace(0, 100, 20), np.linspace(0, 0.1, 20)], axis=1)
    off = teacher + np.array([1.0, 0.02])  # one percent of the first, a fifth of the second
    chunks = Chunks(
        actions=(Action('wide', 'mm'), Action('narrow', 'rad')), period=0.05,
        frames=(dataclasses.replace(frame(2), teacher=teacher, student=off),),
    )
    worst, other = joint_errors(chunks)
    assert (worst.action.name, other.action.name) == ('narrow', 'wide')
    assert worst.rms == pytest.approx(0.02) and other.largest == pytest.approx(1.0)


def test_of_many_joints_the_worst_are_in_view_and_the_rest_folded():
    written = render(calibration(joints=60, frames=1))
    shown = re.search(r'<div class="panels">(.*?)</div><details>', written, re.S).group(1)
    assert shown.count('<figure>') == SHOWN
    assert f'{60 - SHOWN} more joints' in written


def test_inputs_that_several_layers_read_are_drawn_once():
    text = Page(render(calibration())).text
    assert text.count('query, key, value') == 1


def test_factors_at_the_limit_are_framed_and_counted():
    read = Page(render(calibration(blocks=5)))
    framed = [a for a in read.all('td') if 'end' in a.get('class', '').split()]
    assert len(framed) == 5
    assert '5 corrections' in read.text


def test_a_page_of_a_large_policy_stays_small():
    assert len(render(calibration(18, 8, 60, 8))) < 3 * 2**20


def test_a_page_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / 'report.html'
    target.write_text('the report before')

    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr('pathlib.Path.replace', full)
        with pytest.raises(OSError, match='No space'):
            write_page(calibration(), target)
    assert target.read_text() == 'the report before'
    assert list(tmp_path.iterdir()) == [target]
    write_page(calibration(), target)
    assert target.read_text(encoding='utf-8') == render(calibration())


def test_text_is_text_wherever_it_stands():
    made = tag('p', '<b>', tag('i', 'x'), title='"\'<', data_v=3, hidden=True, id=None)
    assert made == '<p title="&quot;&#x27;&lt;" data-v="3" hidden>&lt;b&gt;<i>x</i></p>'
    # What str's own means make of markup is text again: a fault shows, it does no harm.
    assert join(f'{made}') == escape(made)


def test_numbers_read_well():
    assert [number(v) for v in (0, 0.01234, 12.34, 1234.5, -3, 2.5e-9)] == [
        '0', '0.0123', '12.3', '1\u202f234', '\u22123.00', '2.50e-9'
    ]
    assert percent(None) == '\u2013' and percent(0.0312) == '3.1\u202f%'
    assert size(3 * 2**29) == '1.50\u202fGiB'


@pytest.mark.parametrize('ends', [(0, 1), (-3e-7, 2e-7), (5, 5), (0, 1e9), (-1.2345, -1.2344)])
def test_linear_ticks_lie_within_the_axis(ends):
    scale = linear(*ends)
    assert len(scale.ticks) >= 2
    assert all(0 <= scale.place(v) <= 100 for v, _ in scale.ticks)
    assert len({words for _, words in scale.ticks}) == len(scale.ticks)


@pytest.mark.parametrize('values', [[], [0.0, -1.0], [math.nan, 0.3], [0.01, 0.012], [1e-12, 1e9]])
def test_logarithmic_ticks_lie_within_the_axis(values):
    scale = logarithmic(values)
    assert 2 <= len(scale.ticks) <= 8
    assert all(scale.low <= v <= scale.high for v, _ in scale.ticks)
    assert 0 <= scale.place(0.0) <= 100
