"""The style sheet of the page: system fonts, two accents, light and dark, wide and narrow, and print."""

CSS = """
:root { color-scheme: light dark;
  --page: #fdfdfc; --ink: #1c1d20; --soft: #5d6169; --rule: #e3e3df; --grid: #ecece8; --card: #f5f5f2;
  --a: #2f66a8; --b: #b9510f; --c: #1f7a5c; --d: #8a4a9e; --warn: #a11d1d; }
@media (prefers-color-scheme: dark) { :root {
  --page: #16181b; --ink: #e4e5e7; --soft: #9da2ab; --rule: #2e3238; --grid: #262a2f; --card: #1e2125;
  --a: #7fb0ea; --b: #f0a06a; --c: #6cc9a5; --d: #cf9be0; --warn: #ff9b93; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%; }
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; margin: 0;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; font-weight: 650; margin: 3.5rem 0 1rem; padding-top: 1rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; font-weight: 600; margin: 0; }
p { margin: .4rem 0; max-width: 44rem; }
.soft, figcaption p, caption { color: var(--soft); }
.small { font-size: .875rem; }
.warn { color: var(--warn); font-weight: 600; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: 1.6rem 1.5rem;
  margin: 2.2rem 0 0; }
.tiles div { display: flex; flex-direction: column; }
.tiles dt { font-size: .84rem; color: var(--soft); }
.tiles dd { margin: 0; font-size: 1.6rem; line-height: 1.25; font-weight: 600; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.tiles dd.note { font-size: .8rem; line-height: 1.4; font-weight: 400; letter-spacing: 0;
  color: var(--soft); }
figure { margin: 0; min-width: 0; }
.grid figure { display: flex; flex-direction: column; justify-content: space-between; }
figcaption { margin-bottom: .6rem; }
figcaption p { font-size: .84rem; margin: .15rem 0 0; }
.grid { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 2.4rem 2rem;
  margin-top: 2.6rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: .3rem 0 0; padding: 0;
  font-size: .84rem; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: .45rem; }
.key { width: 1.3rem; height: 0; border-top: 2.5px solid var(--a); }
.key.faint { border-top-width: 4px; opacity: .35; }
.key.dots { width: .6rem; height: .6rem; border: 0; border-radius: 50%; }
.key.b { background: var(--b); } .key.c { background: var(--c); } .key.d { background: var(--d); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
svg text.y, svg text.end { text-anchor: end; }
svg text.x, svg text.none { text-anchor: middle; }
svg path { fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .grid { display: inline; stroke: var(--grid); }
svg .base, svg .tick { stroke: var(--soft); stroke-opacity: .55; }
svg .line { stroke-width: 1.8; }
svg .faint { stroke-width: 1; stroke-opacity: .38; }
svg .thin { stroke-width: 1; stroke-opacity: .6; }
svg path.a { stroke: var(--a); } svg path.b { stroke: var(--b); }
svg path.c { stroke: var(--c); } svg path.d { stroke: var(--d); }
svg .dot { stroke: var(--page); stroke-width: 1; }
svg .dot.a { fill: var(--a); } svg .dot.b { fill: var(--b); }
svg .dot.c { fill: var(--c); } svg .dot.d { fill: var(--d); }
svg .hover { fill: var(--ink); fill-opacity: 0; } svg .hover:hover { fill-opacity: .07; }
.narrow { display: none; }
.scroll { overflow-x: auto; margin-top: 1.4rem; }
.scroll table { margin-top: 0; }
p.counts { margin-top: 1.6rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: 1rem 0 0; }
caption { text-align: left; padding-bottom: .35rem; }
th, td { text-align: left; vertical-align: top; padding: .32rem 1.6rem .32rem 0;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 600; } tbody th { font-weight: 400; }
thead th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
table.facts { width: 100%; } table.facts th { width: 17rem; color: var(--soft); overflow-wrap: anywhere; }
table.facts td { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .82rem;
  padding-right: 0; }
details { margin-top: 1.2rem; }
summary { cursor: pointer; color: var(--a); font-size: .9rem; width: fit-content; }
.pictures { display: flex; flex-wrap: wrap; gap: 2.4rem 2rem; align-items: flex-start; margin-top: 1.8rem; }
.pictures figure { max-width: 100%; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
img.calibration { width: 25rem; } img.scatter { width: 30rem; }
h3.worst { margin-top: 2.4rem; } table.worst { width: 100%; }
table.worst td { overflow-wrap: anywhere; min-width: 6rem; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; } a { color: var(--a); }
.sample { background: var(--card); border-radius: 6px; padding: .9rem 1.1rem; margin: 0 0 1rem; }
.sample pre { margin: 0; max-height: 14rem; overflow-y: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; unicode-bidi: isolate;
  font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.sample b { font-weight: 700; color: var(--a); }
footer { margin-top: 4rem; padding-bottom: 3rem; font-size: .84rem; color: var(--soft); }
@media (max-width: 58rem) { .grid { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 44rem) {
  main, header, footer { padding: 0 1rem; } header { padding-top: 2rem; } footer { padding-bottom: 2rem; }
  h1 { font-size: 1.5rem; } h2 { margin-top: 2.6rem; }
  dl.tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.3rem 1rem; margin-top: 1.6rem; }
  .tiles dd { font-size: 1.35rem; }
  .grid { grid-template-columns: minmax(0, 1fr); } .wide { display: none; } .narrow { display: block; }
  svg text { font-size: 13px; }
  table.facts th { width: 42%; padding-right: .8rem; font-size: .82rem; } th, td { padding-right: 1.1rem; } }
@media print { h2 { break-after: avoid; } figure, .sample, tr { break-inside: avoid; } }
"""
