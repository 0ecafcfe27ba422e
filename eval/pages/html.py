"""One HTML page that needs nothing else: style, charts and media are inside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

MEDIA = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
PNG = b"\x89PNG"
WIDE = 900  # pixels
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
STYLE = (
    """
:root { color-scheme: light dark; --bg: #ffffff; --fg: #1b1f24; --soft: #57606a; --line: #d0d7de; --card: #f6f8fa;
  --c0: #0b62a8; --c1: #c2410c; --c2: #15803d; --c3: #9333ea; --c4: #a16207; --c5: #be185d; --c6: #0e7490;
  --c7: #4d4d4d }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --fg: #e6e9ec; --soft: #9aa4af; --line: #363d46;
  --card: #1c2127; --c0: #6cb6ff; --c1: #ff9a62; --c2: #6fdd8b; --c3: #cf9dff; --c4: #e3b341; --c5: #ff8cc6;
  --c6: #56d4dd; --c7: #bdbdbd } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 1rem 1.1rem 4rem; background: var(--bg); color: var(--fg);
  font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0 .4rem }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .5rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem }
a { color: var(--c0) }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: .5rem 0 }
.wide { overflow-x: auto; margin: .6rem 0 }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
.caption { font-size: .9rem; color: var(--soft); margin: .6rem 0 .2rem }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { border-bottom: 2px solid var(--fg) }
tbody th { font-weight: 600 }
.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 1rem }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  min-width: 0 }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .4rem }
figcaption b { color: var(--fg) }
figure img, figure video { max-width: 100%; height: auto; display: block; border-radius: 3px }
figure audio, figure video { width: 100% }
figure.wide { grid-column: 1 / -1 }
.chart { width: 100%; height: auto; display: block }
.chart text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft) }
.chart .grid { stroke: var(--line); stroke-width: 1 }
.axis { stroke: var(--soft); stroke-width: 1 }
.curve { fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linejoin: round }
.dot { fill: currentColor }
.band { fill: currentColor; opacity: .16 }
"""
    + "\n".join(f".c{place} {{ color: var(--c{place}) }}" for place in range(8))
    + """
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .15rem 1rem; padding: 0; margin: .3rem 0 0;
  font-size: .85rem }
.swatch { width: 28px; height: 10px; margin-right: .4rem; vertical-align: middle }
.notes { font-size: .85rem; color: var(--soft); padding-left: 1.3rem }
.key { font-size: 1.05rem; border-left: 4px solid var(--c0); padding: .2rem 0 .2rem .8rem; margin: .8rem 0 }
code { font: .85em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
@media (max-width: 520px) { .chart text { font-size: 16px } }
"""
)


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole page; `sections` are headings and their HTML, linked from its top."""
    links = "".join(f'<li><a href="#part{i}">{escape(name)}</a></li>' for i, (name, _) in enumerate(sections))
    parts = [
        f'<section aria-labelledby="part{i}">\n<h2 id="part{i}">{escape(name)}</h2>\n{body}\n</section>'
        for i, (name, body) in enumerate(sections)
    ]
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
    ]
    menu = f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
    top = f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(lead)}</p>\n{menu}\n</header>"
    body = "\n".join([top, "<main>", *parts, "</main>"])
    newline = "\n"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{newline.join(head)}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    )


def table(rows: Sequence[Sequence[str]], caption: str) -> str:
    """Head and rows; the first cell of a row heads it."""
    head, *rest = rows
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rest
    ]
    body = "\n".join(lines)
    label = escape(caption)
    inside = f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    wide = f'<div class="wide" role="region" tabindex="0" aria-label="{label}"><table aria-label="{label}">\n{inside}'
    return f'<p class="caption">{label}</p>\n{wide}\n</table></div>'


def figure(content: str, name: str, caption: str = "", wide: bool = False) -> str:
    """A figure with its name and what is to be said of it; a wide one has the page's whole width."""
    opened = '<figure class="wide">' if wide else "<figure>"
    return f"{opened}\n{content}\n<figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption>\n</figure>"


def media(file: Path, description: str) -> str:
    """A picture, sound or clip with its bytes in the page; ValueError for a suffix that is none of `MEDIA`."""
    kind = MEDIA.get(file.suffix.lower())
    if kind is None:
        raise ValueError(f"{file} cannot be shown; allowed: {', '.join(MEDIA)}")
    source = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    label = escape(description)
    if kind.startswith("image"):
        return f'<img src="{source}" alt="{label}">'
    if kind.startswith("audio"):
        return f'<audio controls src="{source}" aria-label="{label}"></audio>'
    return f'<video controls loop muted autoplay playsinline src="{source}" aria-label="{label}"></video>'


def is_wide(file: Path) -> bool:
    """Whether a PNG or an MP4 is so wide that words on it cannot be read in half the width of the page."""
    content = file.read_bytes()
    if content.startswith(PNG):
        return int.from_bytes(content[16:20], "big") >= WIDE
    _, track, header = content.partition(b"tkhd")  # ISO 14496-12, 8.3.2: 16 bits before the point and 16 behind it
    return bool(track) and int.from_bytes(header[76:78], "big") >= WIDE


def grid(figures: Sequence[str]) -> str:
    """Figures beside each other where there is room."""
    return f'<div class="grid2">\n{chr(10).join(figures)}\n</div>'


def notes(texts: Sequence[str]) -> str:
    """Numbered footnotes."""
    return f'<ol class="notes">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ol>'


def in_words(node: Any, key: str = "") -> str:
    """A nested dict as `a.b = value, ...` in one line."""
    if isinstance(node, dict) and node:
        return ", ".join(in_words(value, f"{key}.{name}" if key else str(name)) for name, value in node.items())
    text = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)
    return f"{key} = {text}"
