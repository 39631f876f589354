"""The style sheet: light and dark, screen and paper, phone and wide. Colours are variables of either theme.

Every text colour has a contrast of at least 4.5 to 1 on every ground it stands on; tests compute it.
"""

from __future__ import annotations

LIGHT = {
    "bg": "#ffffff",
    "card": "#f6f8fa",
    "text": "#1b1f24",
    "muted": "#57606a",
    "line": "#d0d7de",
    "link": "#0a58ca",
    "good": "#116329",
    "bad": "#a40e26",
    "warn-bg": "#fff3cd",
    "warn": "#6a4a00",
    "k1": "#0a58ca",
    "k2": "#6e6259",
    "k3": "#a8420b",
    "k4": "#a40e26",
    "k5": "#1a7a4c",
    "c1": "#a8420b",
    "c2": "#0a58ca",
    "c3": "#1a7a4c",
    "c4": "#7a3fc2",
}
DARK = {
    "bg": "#10151b",
    "card": "#1a212a",
    "text": "#e6edf3",
    "muted": "#a3aebb",
    "line": "#36414e",
    "link": "#79b8ff",
    "good": "#5fd38d",
    "bad": "#ff9b93",
    "warn-bg": "#3d3210",
    "warn": "#ffdf80",
    "k1": "#79b8ff",
    "k2": "#b3a89e",
    "k3": "#ffb07a",
    "k4": "#ff9b93",
    "k5": "#5fd38d",
    "c1": "#ffb07a",
    "c2": "#79b8ff",
    "c3": "#5fd38d",
    "c4": "#cfa6ff",
}
TEXTS = ("text", "muted", "link", "good", "bad", "k1", "k2", "k3", "k4", "k5", "c1", "c2", "c3", "c4")
"""What letters and marks are drawn in, on `bg` and on `card`."""

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
header,main,footer{max-width:1140px;margin:0 auto;padding:0 20px}
h1{font-size:1.7rem;margin:24px 0 4px;line-height:1.2;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:36px 0 10px;padding-top:12px;border-top:1px solid var(--line)}
#summary-h{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);margin:0}
h3{font-size:1rem;margin:22px 0 8px}
p{margin:8px 0;max-width:78ch}
a{color:var(--link)}
.m0{color:var(--muted)}
.good{color:var(--good);font-weight:600}
.bad{color:var(--bad);font-weight:600}
.doubt{color:var(--warn);font-weight:600}
.verdict{font-size:1.25rem;margin:18px 0 0}
.stamp{background:var(--warn-bg);color:var(--warn);font-weight:700;text-align:center;padding:8px 16px;position:sticky;top:0;z-index:2}
.skip{position:absolute;left:-9999px}
.skip:focus{left:8px;top:8px;background:var(--bg);padding:8px;z-index:3}
nav ul{list-style:none;padding:0;margin:12px 0 0;display:flex;flex-wrap:wrap;gap:4px 18px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:14px 0 20px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.card b{display:block;font-size:1.5rem;line-height:1.25;font-variant-numeric:tabular-nums}
.card span{display:block;color:var(--muted);font-size:.875rem}
.grid{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:26px 28px;align-items:start}
.wide{grid-template-columns:minmax(0,5fr) minmax(0,6fr)}
figure{margin:0;min-width:0}
figcaption{font-weight:600;margin-bottom:4px}
.chart>svg{width:100%;height:auto;display:block;overflow:visible}
svg text{fill:var(--text);font-size:12px}
svg .m{text-anchor:middle}svg .e{text-anchor:end}
svg .h{font-weight:600}
svg .l{paint-order:stroke;stroke:var(--bg);stroke-width:4px;stroke-linejoin:round}
svg .g{stroke:var(--line);stroke-width:.6;fill:none}
svg .a{stroke:var(--muted);stroke-width:1.2;fill:none}
svg text.w{text-anchor:middle;font-size:44px;font-weight:700;fill:var(--muted);opacity:.16;pointer-events:none}
svg .b{opacity:.18;stroke:none}
svg .o{fill:none;stroke-width:2}
svg .n{fill:none;stroke-width:2}
svg .f{rx:2px}
.chart .k4.n{stroke-dasharray:6 4}
.chart .k5.n{stroke-dasharray:3 3}
.chart .c2.n{stroke-dasharray:8 3}
.chart .c3.n{stroke-dasharray:2 3}
.chart .c4.n{stroke-dasharray:9 3 2 3}
.legend{list-style:none;margin:4px 0 6px;padding:0;font-size:.84rem;color:var(--muted);display:flex;flex-wrap:wrap;gap:2px 16px}
.legend li{display:flex;align-items:center;gap:6px;min-width:0;overflow-wrap:anywhere}
.legend svg{width:18px;height:14px;flex:none}
.sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);margin:0}
details{margin:6px 0}
summary{cursor:pointer;padding:3px 0;overflow-wrap:anywhere}
figure summary{font-size:.84rem;color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:3px}
.x{overflow-x:auto;margin:8px 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--muted);padding:2px 0;white-space:nowrap}
th,td{text-align:left;padding:4px 14px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}
td:last-child{min-width:15em}
.r{text-align:right;white-space:nowrap}
td.r:last-child{min-width:0}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:10px 12px;overflow-x:auto;font:13px/1.45 ui-monospace,"SF Mono",Menlo,"DejaVu Sans Mono",monospace;margin:8px 0}
dl{display:grid;grid-template-columns:minmax(110px,max-content) minmax(0,1fr);gap:2px 16px;margin:8px 0;font-size:.875rem}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
.trials>details{border-bottom:1px solid var(--line);margin:0}
.trials>details[open]{padding-bottom:12px}
footer{color:var(--muted);font-size:.875rem;padding-bottom:40px;margin-top:40px}
@media(max-width:820px){.cards{grid-template-columns:repeat(2,minmax(0,1fr));gap:8px}.card{padding:8px 10px}.card b{font-size:1.25rem}.grid,.wide{grid-template-columns:minmax(0,1fr)}header,main,footer{padding:0 14px}svg text{font-size:15px}h1{font-size:1.4rem}dl{grid-template-columns:minmax(0,1fr)}dd{margin-bottom:6px}}
@media print{body{font-size:10.5pt}.stamp{position:static;border:1.5pt solid}nav,.skip{display:none}header,main,footer{max-width:none;padding:0}h2{margin-top:22px}h2,h3,h4{break-after:avoid}.card,figure,tr{break-inside:avoid}table{font-size:8.5pt}th,td{padding-right:9px}td:last-child{min-width:0}pre{white-space:pre-wrap;overflow-wrap:anywhere}.x{overflow:visible}.grid{grid-template-columns:repeat(2,minmax(0,1fr));gap:14px}.cards{grid-template-columns:repeat(5,minmax(0,1fr));gap:8px}.card{padding:6px 8px}.card span{font-size:8pt}.card b{font-size:1.2rem}summary{list-style:none}figure details{display:none}@page{margin:14mm}}
"""


def style_sheet() -> str:
    """The whole sheet. Paper is always light."""
    kinds = "".join(
        f"svg .{k}{{fill:var(--{k});stroke:var(--{k})}}svg .{k}.o,svg .{k}.n{{fill:none}}"
        for k in ("k1", "k2", "k3", "k4", "k5", "c1", "c2", "c3", "c4")
    )
    return (
        f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
        f"{kinds}{_RULES}".replace("\n", "")
    )


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())
