"""Colours and page style. The categorical colours are those of Okabe and Ito, which the colour-blind can tell apart."""

from __future__ import annotations

LIGHT = {
    "page": "#f6f5f2",
    "card": "#fefefd",
    "ink": "#1c2126",
    "muted": "#5c646c",
    "rule": "#dcdad5",
    "edge": "#cbc8c1",
    "band": "#eceae5",
    "teacher": "#0072b2",
    "baseline": "#7a828a",
    "student": "#d55e00",
    "term1": "#009e73",
    "term2": "#cc79a7",
    "term3": "#e69f00",
    "term4": "#56b4e9",
    "good": "#00795a",
    "bad": "#b3261e",
}
DARK = {
    "page": "#14171a",
    "card": "#1d2125",
    "ink": "#e9e7e2",
    "muted": "#a3abb3",
    "rule": "#363c42",
    "edge": "#4a525a",
    "band": "#2a2f34",
    "teacher": "#56b4e9",
    "baseline": "#98a1aa",
    "student": "#f0843c",
    "term1": "#21b98f",
    "term2": "#d990b8",
    "term3": "#e6ab28",
    "term4": "#7cc6ef",
    "good": "#3cc79c",
    "bad": "#ff8a80",
}
TERMS = ("term1", "term2", "term3", "term4", "teacher")


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


CSS = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Liberation Sans",sans-serif;-webkit-text-size-adjust:100%;overflow-wrap:break-word}
main{max-width:1060px;margin:0 auto;padding:40px 24px 64px}
header p{margin:4px 0 0;color:var(--muted)}
h1{font-size:1.2rem;font-weight:650;margin:0}
h2{font-size:1.15rem;font-weight:650;margin:44px 0 4px}
h3{font-size:.95rem;font-weight:650;margin:0 0 2px}
.lead{color:var(--muted);margin:0 0 14px;max-width:72ch}
.card{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:18px 20px;min-width:0}
.card+.card{margin-top:12px}.grid>.card{margin:0}
.card:has(> table){overflow-x:auto;background:
linear-gradient(to left,var(--card) 30%,transparent) 100% 0/40px 100% no-repeat local,
linear-gradient(to left,var(--edge),transparent) 100% 0/14px 100% no-repeat scroll,var(--card)}
.verdict{margin-top:22px;padding:26px 28px;border-left:6px solid var(--muted)}
.verdict.gain{border-left-color:var(--good)}.verdict.loss{border-left-color:var(--bad)}
.verdict .question{margin:0;color:var(--muted);font-size:.95rem}
.verdict .answer{margin:2px 0 12px;font-size:clamp(1.45rem,4.2vw,2.1rem);line-height:1.2;font-weight:700;
letter-spacing:-.01em;text-wrap:balance}
.gain .answer{color:var(--good)}.loss .answer{color:var(--bad)}
.verdict .why{margin:0;max-width:78ch}.why+.why{margin-top:10px!important}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:18px 20px;margin:22px 0 0;
padding-top:18px;border-top:1px solid var(--rule)}
.facts div{display:flex;flex-direction:column-reverse;justify-content:flex-end}
.facts dt{color:var(--muted);font-size:.82rem;line-height:1.35}
.facts dd{margin:0;font-size:1.45rem;font-weight:650;font-variant-numeric:tabular-nums;white-space:nowrap}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:16px}
figure{margin:0}figcaption{color:var(--muted);font-size:.85rem;margin-top:8px}
figure svg{display:block;width:100%;height:auto;max-width:520px;margin:2px auto 0;stroke-linejoin:round}
svg text{font-family:inherit!important}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:right;vertical-align:baseline}
th:first-child,td:first-child{text-align:left;padding-left:0}
th:last-child,td:last-child{padding-right:0}
thead th{white-space:nowrap;border-bottom:2px solid var(--ink);font-weight:650}
thead small{display:block;font-weight:400;color:var(--muted)}
tbody th{font-weight:400;text-align:left}td{white-space:nowrap}
tbody tr+tr:not(.section) :is(th,td){border-top:1px solid var(--rule)}
.section span{position:sticky;left:0;display:inline-block}
@media (max-width:560px){.card:has(> table)>table{margin-left:-14px}
tbody th[scope],thead :is(th,td):first-child{padding-left:14px!important}
tbody th[scope=row],thead :is(th,td):first-child{position:sticky;left:-14px;background:var(--card)}}
.section th{padding-top:18px;font-size:.8rem;font-weight:650;color:var(--muted);letter-spacing:.02em}
.name{white-space:nowrap}
.dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.4em}
.example{display:grid;grid-template-columns:96px 1fr;gap:4px 16px;align-content:start}
.example img{width:96px;height:96px;object-fit:contain;image-rendering:pixelated;border-radius:6px;
background:var(--band)}
.example dl{display:grid;grid-template-columns:max-content 1fr;gap:1px 10px;margin:0;font-size:.88rem;line-height:1.5;
align-content:center}
.example.bare{grid-template-columns:1fr}
.example dt{color:var(--muted)}.example dd{margin:0}.wrong{color:var(--bad)}
.example p{grid-column:1/-1;margin:10px 0 0;font-size:.82rem;color:var(--muted)}
.bars{grid-column:1/-1;display:grid;grid-template-columns:minmax(4.5em,max-content) 1fr;gap:6px 10px;align-items:center;
font-size:.85rem}
.bars .label{text-align:right;max-width:9.5em;line-height:1.2}
.bars .hard{font-weight:700}
.bar{display:flex;align-items:center;gap:6px;height:12px;font-size:.72rem;color:var(--muted);
font-variant-numeric:tabular-nums;line-height:1}
.bar i{display:block;height:9px;border-radius:0 3px 3px 0;min-width:1px;flex:none}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 12px;font-size:.88rem;color:var(--muted)}
dl.facts-list{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:6px 18px;margin:0}
dl.facts-list dt{color:var(--muted)}dl.facts-list dd{margin:0}
code,pre{font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
code,pre{overflow-wrap:anywhere}
pre{white-space:pre-wrap;background:var(--band);border-radius:8px;padding:14px 16px;margin:10px 0 0}
details{margin-top:14px}summary{cursor:pointer;font-weight:600}
.caveat{margin:44px 0 0;padding:14px 20px;border-left:4px solid var(--rule);color:var(--muted);font-size:.92rem}
.caveat p{margin:0;max-width:82ch}.caveat p+p{margin-top:6px}
@media (max-width:560px){main{padding:22px 14px 44px}.card{padding:14px 14px}.verdict{padding:18px 16px}
th,td{padding:6px 5px;font-size:.86rem}.facts{grid-template-columns:1fr 1fr}.facts dd{font-size:1.25rem}
dl.facts-list{grid-template-columns:1fr;gap:0}dl.facts-list dd{margin-bottom:8px}}
.samples{display:flex;flex-wrap:wrap;gap:12px}
.sample{width:72px;text-align:center}.sample img{width:72px;height:72px;image-rendering:pixelated;border-radius:6px}
.sample figcaption{margin-top:2px;font-size:.78rem}
@media print{body{background:none}.card{break-inside:avoid}}
"""
)
