"""The style of the report's page: on a laptop, on a phone and on paper, in light and in dark."""

from __future__ import annotations

from . import colours

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Noto Sans","Liberation Sans",sans-serif;overflow-wrap:anywhere}
header,main,footer{max-width:1080px;margin:0 auto;padding:0 24px}
header{padding-top:32px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px}
h2{font-size:20px;line-height:1.3;margin:0 0 4px}
h3{font-size:16px;line-height:1.4;margin:0 0 4px}
p{margin:0 0 8px;max-width:75ch}
footer{color:var(--soft)}
.note{font-size:14px;color:var(--soft)}
section{margin:40px 0 0}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:12px 0 0;font-size:15px}
dl.facts dt{color:var(--soft)}
dl.facts dd{margin:0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(205px,1fr));gap:12px;margin:24px 0 0;padding:0;
list-style:none}
.cards li{background:var(--panel);border-radius:8px;padding:12px 16px}
.cards b{display:block;font-size:26px;line-height:1.2;font-weight:650;font-variant-numeric:tabular-nums}
.cards span{font-size:14px;color:var(--soft)}
.share{display:flex;height:14px;border-radius:7px;overflow:hidden;margin:20px 0 0;background:var(--panel)}
.share i{display:block;min-width:2px}
figure{margin:12px 0 0}
svg{display:block;width:100%;height:auto;overflow:visible}
svg *{stroke-linejoin:round;stroke-linecap:butt}
.narrow{display:none}
ul.legend{display:flex;flex-wrap:wrap;gap:2px 18px;list-style:none;margin:4px 0 4px;padding:0;font-size:14px}
ul.legend li{display:flex;align-items:center;gap:6px}
.swatch{width:16px;height:12px;border-radius:2px;flex:none}
.swatch.line{height:3px}
.swatch.mark{width:auto;height:auto;font-weight:700;line-height:1}
.swatch.steps{display:flex;width:80px;border:1px solid var(--line)}
.swatch.steps i{flex:1}
details{margin:8px 0 0}
details+p,details+.scroll{margin-top:12px}
summary{cursor:pointer;color:var(--link);font-size:15px}
.scroll{overflow-x:auto;margin:8px 0 0;max-height:480px;overflow-y:auto}
.scroll.whole{max-height:none}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;min-width:100%}
caption{text-align:left;color:var(--soft);padding:0 0 4px}
th,td{padding:4px 12px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);
overflow-wrap:normal}
thead th{font-weight:600;color:var(--soft)}
tbody th{font-weight:400}
.number{text-align:right;white-space:nowrap}
.time{white-space:nowrap}
.short{white-space:nowrap}
.long{min-width:16em;overflow-wrap:anywhere}
.examples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:12px;margin:16px 0 0}
article{border-left:4px solid var(--failed);background:var(--panel);border-radius:0 8px 8px 0;padding:12px 16px;
min-width:0}
article p{font-size:14px;margin:0 0 2px}
article h3{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:15px;
font-weight:600}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:13px}
pre{margin:8px 0 0;padding:10px 12px;background:var(--page);border:1px solid var(--line);border-radius:4px;
max-height:360px;overflow-y:auto;white-space:pre-wrap}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
footer{margin:48px auto 0;padding-bottom:40px;font-size:14px}
@media screen and (max-width:640px){
body{font-size:15px}
header,main,footer{padding-left:16px;padding-right:16px}
header{padding-top:20px}
h1{font-size:23px}
.wide{display:none}
.narrow{display:block}
.cards{grid-template-columns:1fr 1fr}
.cards b{font-size:21px}
dl.facts{grid-template-columns:1fr;gap:0}
dl.facts dd{margin:0 0 6px}
}
@media print{
@page{margin:14mm}
body{font-size:10.5pt}
header,main,footer{max-width:none;padding:0}
header{padding-top:0}
section{margin-top:22pt}
h2,h3{break-after:avoid}
.chart,article,.cards li,tr{break-inside:avoid}
.examples{grid-template-columns:1fr 1fr;gap:0 8pt}
article{margin-bottom:8pt}
details:not([open]){display:none}
.scroll,pre{overflow:visible;max-height:none}
table{font-size:8.5pt}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""


def style() -> str:
    """Return all rules."""
    return colours.css() + _RULES.replace("\n", "")
