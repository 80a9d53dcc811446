"""The page's style sheet: light, readable, print-friendly, system fonts only.

In: nothing. Out: STYLE_SHEET, put inline into the page.
"""

from __future__ import annotations

STYLE_SHEET = """
:root { --ink: #1f2933; --quiet: #5b6672; --line: #e3e7eb; --soft: #f6f8fa; --accent: #1d4ed8; }
* { box-sizing: border-box; }
html { background: #fff; }
body { margin: 0 auto; max-width: 78rem; padding: 2rem 1.5rem 4rem; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.4rem; margin: 3rem 0 .8rem; padding-bottom: .3rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
h4 { font-size: .95rem; margin: 1.2rem 0 .4rem; }
a { color: var(--accent); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; padding: 0; margin: 1rem 0 0; }
.lede { color: var(--quiet); margin: 0; }
.finding { background: var(--soft); border-left: 4px solid var(--accent); padding: .6rem .9rem; margin: .8rem 0 0; }
.warning { background: #fff7ed; border-left: 4px solid #c2410c; padding: .6rem .9rem; margin: .8rem 0 0; }
.facts, .note, figcaption { color: var(--quiet); font-size: .85rem; margin: .25rem 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #c9d0d7; font-weight: 600; }
tbody th { font-weight: 500; }
td.text, th.text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; }
.sample { break-inside: avoid; margin: 1rem 0; }
.strip { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 320px)); gap: .8rem; }
.strip figure { margin: 0; }
.strip img { border: 1px solid var(--line); }
pre { background: var(--soft); padding: .6rem .8rem; font: .82rem/1.5 ui-monospace, "Liberation Mono", Menlo, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; border-radius: 4px; }
pre.command { user-select: all; }
.run { margin: .9rem 0 .1rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--quiet); font-size: .9rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  nav, details { display: none; }
  h2 { break-after: avoid; } h3, h4 { break-after: avoid; } figure, table { break-inside: avoid; }
}
"""
