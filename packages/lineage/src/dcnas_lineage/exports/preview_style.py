"""The look of a crate's page: the colours of the project's reports, light and dark, nothing fetched from anywhere."""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #ffffff; --faint: #d0d7de; --soft: #f6f8fa; --accent: #0072b2; --grey: #59636e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --faint: #30363d; --soft: #161b22; --accent: #56b4e9; --grey: #9198a1; }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 3.2rem; }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 92rem; padding: 2rem 1.5rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { border-bottom: 1px solid var(--faint); font-size: 1.2rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
h4 { font-size: .92rem; margin: 1.2rem 0 .3rem; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
p { margin: .4rem 0; max-width: 60rem; }
nav { background: var(--paper); border-bottom: 1px solid var(--faint); display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
nav { margin: 1rem 0; padding: .6rem 0; position: sticky; top: 0; z-index: 1; }
dl { display: grid; gap: .25rem 1.2rem; grid-template-columns: max-content minmax(0, 1fr); margin: .8rem 0; }
dt { color: var(--grey); }
dd { margin: 0; overflow-wrap: anywhere; }
code, .hash { font: .84em/1.45 ui-monospace, monospace; }
.hash { color: var(--grey); overflow-wrap: anywhere; }
.note { color: var(--grey); font-size: .88rem; }
.warn { border-left: 4px solid #d55e00; padding: .3rem .8rem; }
.scroll { margin: .4rem 0 .8rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--faint); padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; }
th { color: var(--grey); font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
table.results td, table.results th { padding: .3rem .6rem; white-space: nowrap; }
table.results th { background: var(--soft); color: var(--ink); }
table.files { width: 100%; }
table.files td:first-child { overflow-wrap: anywhere; }
table.files td.hash { padding-left: .5rem; width: 34rem; }
details { border-bottom: 1px solid var(--faint); }
details.plain { border: 0; }
details > summary { cursor: pointer; padding: .35rem 0; }
details[open] > summary { font-weight: 600; }
details > div { padding: .2rem 0 1rem 1.1rem; }
summary .note { float: right; font-weight: 400; }
.figures { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); }
figure { margin: 0; }
figure img { background: var(--paper); border: 1px solid var(--faint); display: block; }
figure img { height: auto; max-height: 26rem; object-fit: contain; width: 100%; }
figcaption { color: var(--grey); font-size: .84rem; overflow-wrap: anywhere; padding-top: .2rem; }
@media (max-width: 48rem) { table.files td.hash { width: auto; } summary .note { display: none; } }
"""
