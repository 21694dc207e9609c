# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One self-contained page: looks, the one small script that sorts tables, and common pieces.

Knows nothing of what a page says. The page asks the browser itself to load nothing from anywhere
and to run no script but ours, so that not even a fault in escaping could.
"""
from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantvla_ros.report.html import Child, Html, join, tag

_CSS = '''
:root{color-scheme:light dark;--back:#fff;--card:#f6f7f9;--text:#1b2028;--soft:#566072;
--rule:#d8dde4;--grid:#e6e9ee;--float:#2563b8;--quant:#c2410c;--plain:#6b7688;--bad:#b42318;
--good:#1a7f4b;--low:124,58,173;--high:14,122,92;--shade:rgba(194,65,12,.10)}
@media(prefers-color-scheme:dark){:root{--back:#14171c;--card:#1d2128;--text:#e7eaef;--soft:#a3adbb;
--rule:#353c47;--grid:#2a3039;--float:#79b0ff;--quant:#ff9355;--plain:#98a3b3;--bad:#ff8a80;
--good:#5fd39a;--low:190,140,240;--high:60,190,150;--shade:rgba(255,147,85,.14)}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:3rem;-webkit-text-size-adjust:100%}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--back);color:var(--text);overflow-wrap:break-word;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif}
main,header,footer,nav>div{max-width:1180px;margin:0 auto;padding:0 16px}
header{padding-top:28px}
h1{font-size:1.75rem;line-height:1.2;margin:.1em 0 .2em}
h2{font-size:1.3rem;line-height:1.3;margin:0 0 .35em;text-wrap:balance}
h3{font-size:1rem;margin:1.5em 0 .3em}
h4{font-size:.9rem;margin:1.1em 0 .25em;color:var(--soft);font-weight:600}
p{margin:.45em 0;max-width:46em}
a{color:var(--float)}
section{padding:30px 0 6px;border-top:1px solid var(--rule);margin-top:30px}
section:first-of-type{border:0;margin:0}
.kicker{color:var(--soft);font-size:.8rem;font-weight:600;letter-spacing:.04em;margin:0}
.soft,.note{color:var(--soft)}.note{font-size:.875rem}
nav{position:sticky;top:0;z-index:5;background:var(--back);border-bottom:1px solid var(--rule);
margin-top:18px}
nav>div{display:flex;gap:18px;overflow-x:auto;white-space:nowrap;scrollbar-width:none}
nav a{color:var(--soft);text-decoration:none;font-size:.875rem;padding:10px 0}
nav a:hover{color:var(--text);text-decoration:underline}
:focus-visible{outline:2px solid var(--float);outline-offset:2px}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
font-size:.85em}
pre{background:var(--card);padding:12px;border-radius:8px;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin:18px 0}
@media(max-width:900px){.tiles{grid-template-columns:1fr 1fr}}
.tile{background:var(--card);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:1.55rem;line-height:1.2;font-weight:650;
font-variant-numeric:tabular-nums}
.first{display:grid;gap:0 34px;align-items:start}
@media(min-width:1000px){.first{grid-template-columns:1.15fr 1fr}.first h3{margin-top:1.1em}}
@media(max-width:500px){.tile{padding:10px 12px}.tile b{font-size:1.25rem}}
.tile span{color:var(--soft);font-size:.85rem;line-height:1.35;display:block;margin-top:2px}
.verdict{border-left:5px solid var(--plain);background:var(--card);border-radius:0 10px 10px 0;
padding:12px 16px;margin:16px 0}
.verdict.good{border-color:var(--good)}.verdict.look{border-color:var(--quant)}
.verdict.bad{border-color:var(--bad)}
.verdict strong{font-size:1.1rem}
ul{padding-left:1.2em;margin:.4em 0;max-width:48em}li{margin:.3em 0}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:.85rem;margin:.6em 0;color:var(--soft)}
.legend span{display:inline-flex;align-items:center;gap:7px}
.legend svg{width:26px;height:12px;overflow:visible;flex:none}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:14px 22px}
@media(max-width:560px){.panels{grid-template-columns:repeat(auto-fill,minmax(150px,1fr));
gap:12px 12px}}
.panels.wide{grid-template-columns:repeat(auto-fit,minmax(240px,1fr))}
.panels.wide>figure{max-width:620px}
.roles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:0 22px}
.roles>div{display:grid;grid-column:span var(--n);gap:14px 22px;align-content:start;
grid-template-columns:repeat(var(--n),minmax(0,1fr))}
.roles h4{grid-column:1/-1;margin-bottom:-.5em}
@media(max-width:900px){.roles{display:block}
.roles>div{grid-template-columns:repeat(4,minmax(0,1fr));gap:12px}}
@media(max-width:640px){.roles>div{grid-template-columns:repeat(2,minmax(0,1fr))}}
.split{display:grid;gap:0 48px}
@media(min-width:1000px){.split{grid-template-columns:repeat(2,minmax(0,1fr))}
.split .panels.wide{grid-template-columns:1fr}}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));
gap:0 44px;align-items:start}
.columns table{width:100%}
figure{margin:0;min-width:0}
figcaption{font-size:.85rem;line-height:1.3;margin-bottom:4px}
figcaption b{font-weight:620;display:block}
figcaption span{color:var(--soft);font-variant-numeric:tabular-nums;font-size:.8rem}
.plot{position:relative;padding:0 8px 0 40px}
.plot>svg{display:block;width:100%;height:132px;overflow:visible;margin-bottom:19px}
.plot.short>svg{height:96px}
.wide .plot>svg{height:190px}
.y-title,.x-title{font-size:11px;color:var(--soft);line-height:1.2}
.y-title{margin:0 0 7px -40px}.x-title{text-align:right;margin-top:-2px}
.tick-x,.tick-y,.mark-label{font-size:11px;fill:var(--soft);font-variant-numeric:tabular-nums}
.tick-x{text-anchor:middle}.tick-y{text-anchor:end}
.grid{stroke:var(--grid)}.axis{stroke:var(--rule)}
.one{stroke:var(--plain);stroke-width:1.25;stroke-dasharray:2 3}
.before{fill:var(--back);stroke:var(--plain);stroke-width:1.5}
.after{fill:var(--quant);stroke:var(--back);stroke-width:.75}
.link{stroke:var(--rule)}.stem{stroke:var(--quant);stroke-width:2.25}
.rms{fill:var(--back);stroke:var(--quant);stroke-width:1.5}
path{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round;stroke-linecap:round}
.float{stroke:var(--float);stroke-width:3.6;opacity:.62}
.quant{stroke:var(--quant);stroke-width:1.7;stroke-dasharray:5 3.5;stroke-linecap:butt}
.trend-after{stroke:var(--quant);stroke-width:1.4}
.trend-before{stroke:var(--plain);stroke-width:1.2;stroke-dasharray:2 3.5}
.bound{stroke:var(--bad);stroke-width:1.3;stroke-dasharray:7 3 1.5 3}
.centred{transform:translate(-3px,-3px)}
.mark-label.end{text-anchor:end}
.bad-mark{fill:var(--bad);font-size:12px;text-anchor:middle;font-weight:700}
.scroll{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:5px 12px 5px 0;text-align:right;border-bottom:1px solid var(--grid);
vertical-align:top;white-space:nowrap}
th{font-weight:600;color:var(--soft);vertical-align:bottom}
th:first-child,td:first-child,.words{text-align:left}
td.words{white-space:normal;min-width:9em}
td.name{white-space:normal;min-width:12em;text-align:left}
.scroll tr>:first-child{position:sticky;left:0;background:var(--back)}
@media(max-width:560px){td.name,td.words{min-width:7.5em}td.name{font-size:.75rem}
td.name:not(:first-child){white-space:nowrap}}
td small{color:var(--soft);display:block;font-size:.8rem}
th button{all:unset;cursor:pointer;color:inherit;text-decoration:underline dotted}
th button:focus-visible{outline:2px solid var(--float)}
th[aria-sort=ascending] button:after{content:" \\2191"}
th[aria-sort=descending] button:after{content:" \\2193"}
tr.total td{font-weight:650;border-top:2px solid var(--rule)}
td.bars{min-width:76px;width:34%;text-align:left;padding-top:8px}
.bar{display:block;height:8px;border-radius:2px;margin:2px 0;min-width:2px}
.bar.f{background:repeating-linear-gradient(115deg,var(--float) 0 3px,transparent 3px 5px);
outline:1px solid var(--float);outline-offset:-1px}
.bar.q{background:var(--quant)}
.swatch{width:26px;flex:none}
.heat{border-spacing:2px;border-collapse:separate;font-size:11px}
.heat th,.heat td{padding:3px 2px;text-align:center;border:0;min-width:34px}
.heat.many td,.heat.many th{min-width:31px}
.heat th:first-child{position:sticky;left:0;background:var(--back);text-align:right;
padding-right:6px;z-index:1;min-width:26px}
.heat td{border-radius:3px;background:rgba(var(--side),var(--s,0))}
.heat .lo{--side:var(--low)}.heat .hi{--side:var(--high)}.heat .no{color:var(--soft)}
.heat .end{outline:2px solid var(--text);outline-offset:-2px;font-weight:700}
.key{display:inline-block;width:26px;height:13px;border-radius:3px;
background:rgba(var(--side),.5)}
.key.lo{--side:var(--low)}.key.hi{--side:var(--high)}
.key.end{background:none;outline:2px solid var(--text);outline-offset:-2px}
.heat .tall{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;
vertical-align:top;max-height:16em;overflow:hidden}
.intervals{width:100%;max-width:900px;margin:12px 0 18px;table-layout:auto}
.intervals th,.intervals td{border:0;padding:1px 10px 1px 0;vertical-align:middle}
.intervals th{color:var(--text);font-weight:400;min-width:5.4em;max-width:34vw;
white-space:normal}
.intervals .group{font-weight:650;padding-top:10px}
.intervals .dots{width:62%;padding-right:16px}
.intervals svg{display:block;width:100%;height:24px;overflow:visible}
.intervals .ticks svg{height:2px;margin-bottom:18px}
@media(max-width:560px){.intervals .dots{width:52%}
.intervals td:last-child{white-space:normal;font-size:.8rem;line-height:1.15}}
details{margin:12px 0}
summary{cursor:pointer;font-size:.9rem;color:var(--soft);padding:5px 0}
summary:hover{color:var(--text)}
.frame{margin:20px 0 30px}
.frame h3{margin-bottom:.1em}
.pictures{display:flex;flex-wrap:wrap;gap:10px;margin:10px 0 14px}
.pictures figure{flex:0 1 230px}
.pictures img{display:block;width:100%;height:auto;border-radius:6px;background:var(--card)}
.pictures figcaption{margin:3px 0 0;color:var(--soft);font-size:.8rem}
@media(max-width:560px){.pictures figure{flex:0 1 calc(50% - 5px)}}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:2px 16px;font-size:.875rem}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:.85rem;padding-top:30px;padding-bottom:50px}
@media print{nav{display:none}section{break-inside:avoid}}
'''

# Sorts a table by the column whose head is pressed; numbers by data-v, the rest as words.
_SCRIPT = '''
for(const t of document.querySelectorAll('table.sortable')){const b=t.tBodies[0];
t.querySelectorAll('thead th').forEach((h,i)=>{const e=document.createElement('button');
e.type='button';e.append(...h.childNodes);h.append(e);e.addEventListener('click',()=>{
const down=h.getAttribute('aria-sort')!=='descending';
t.querySelectorAll('th').forEach(o=>o.removeAttribute('aria-sort'));
h.setAttribute('aria-sort',down?'descending':'ascending');
const v=r=>{const c=r.cells[i],d=c.dataset.v;return d===undefined?c.textContent:
d===''?-Infinity:+d};
b.append(...[...b.rows].sort((p,q)=>{const x=v(p),y=v(q);
return (x<y?-1:x>y?1:0)*(down?-1:1)}))})})}
'''


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: its anchor.
        name: for the list of contents.
        title: what was found, in one sentence.
    """

    key: str
    name: str
    title: str
    content: Html


def document(title: str, head: Child, sections: Sequence[Section], foot: Child) -> str:
    """The whole page."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    contents = tag(
        'nav',
        tag('div', [tag('a', s.name, href=f'#{s.key}') for s in sections]),
        aria_label='contents',
    )
    body = [
        tag(
            'section',
            tag('p', section.name, class_='kicker'),
            tag('h2', section.title),
            section.content,
            id=section.key,
        )
        for section in sections
    ]
    page = tag(
        'html',
        tag(
            'head',
            tag('meta', charset='utf-8'),
            tag('meta', name='viewport', content='width=device-width,initial-scale=1'),
            tag('meta', http_equiv='Content-Security-Policy', content=policy),
            tag('title', title),
            tag('style', Html(_CSS)),
        ),
        tag(
            'body',
            tag('header', head),
            contents,
            tag('main', body),
            tag('footer', foot),
            tag('script', Html(_SCRIPT)),
        ),
        lang='en',
    )
    return f'<!doctype html>\n{page}\n'


def write_document(page: str, path: Path) -> None:
    """Write a page: whole or not at all.

    Raises:
        OSError: no room, or no right to write there.
    """
    partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        partial.write_text(page, encoding='utf-8')
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def tile(value: str, words: Child) -> Html:
    """One large number with what it is."""
    return tag('div', tag('b', value), tag('span', words), class_='tile')


def legend(*entries: tuple[Html, str]) -> Html:
    """Marks with what they mean."""
    return tag('div', [tag('span', mark, words) for mark, words in entries], class_='legend')


def key(*marks: Html) -> Html:
    """Marks of a plot for its legend."""
    return tag('svg', *marks, aria_hidden='true')


def panel(name: Child, words: Child, content: Html) -> Html:
    """A plot with its title and its main number."""
    return tag('figure', tag('figcaption', tag('b', name), tag('span', words)), content)


def folded(words: str, *content: Child, open_: bool = False) -> Html:
    """What is shown on demand."""
    return tag('details', tag('summary', words), *content, open=open_)


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        value: to sort by; None: sorted by its words.
        kind: 'words' (may break), 'name' (may break anywhere), 'bars', '' (number).
    """

    content: Child
    value: float | None = None
    kind: str = ''


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], *, words: str, sortable: bool = False,
    total: bool = False,
) -> Html:
    """A table that scrolls sideways where the window is narrow.

    Args:
        words: what it is, for those who do not see it.
        total: whether the last row is the sum of the others.
    """
    kinds = [cell.kind for cell in rows[0]] if rows else [''] * len(head)
    top = tag(
        'tr',
        [
            tag('th', name, scope='col', class_='words' if kind else None)
            for name, kind in zip(head, kinds, strict=True)
        ],
    )
    body = [
        tag(
            'tr',
            [
                tag('td', cell.content, class_=cell.kind or None, data_v=_sort_key(cell))
                for cell in row
            ],
            class_='total' if total and index == len(rows) - 1 else None,
        )
        for index, row in enumerate(rows)
    ]
    return scrolling(
        tag(
            'table',
            tag('thead', top),
            tag('tbody', body),
            class_='sortable' if sortable else None,
            aria_label=words,
        ),
        words,
    )


def scrolling(content: Html, words: str) -> Html:
    """Content that may be wider than the window; it can be scrolled by the keyboard too."""
    return tag('div', content, class_='scroll', tabindex=0, role='region', aria_label=words)


def _sort_key(cell: Cell) -> str | None:
    return None if cell.value is None else repr(float(cell.value))


def breakable(path: str) -> Html:
    """A dotted name that may break after its dots."""
    return join([[part, tag('wbr')] for part in re.split(r'(?<=[./_])', path)])


def paragraph(*content: Child, soft: bool = False) -> Html:
    """A paragraph; soft: of less weight."""
    return tag('p', join(content), class_='note' if soft else None)
