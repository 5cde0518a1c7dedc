"""Documents of Markdown and pictures: one HTML file that opens offline, or Markdown.

Text may come from anywhere: raw HTML in it is shown, not obeyed; there are no links and
no scripts, and the page forbids its reader to load anything.
"""

import base64
import html
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from experiments.markdown import literal
from experiments.optional import optional

markdown_it = optional("markdown_it")


class Picture(NamedTuple):
    """A picture of a page."""

    data: bytes
    mime: str  # as in image/png
    size: tuple[int, int]  # H, W, pixels
    caption: str  # plain text: what is seen
    alt: str  # plain text, for who does not see it


class Section(NamedTuple):
    """A part of a page; a block is Markdown, or pictures beside each other."""

    title: str  # plain text
    level: int  # 2 for a part of the page, 3 for a part of that
    blocks: Sequence[str | Sequence[Picture]]


_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --soft: #f3f4f6;
  --line: #d5d9de; --link: #0b57b0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e6e8; --paper: #15181b; --soft: #20252a; --line: #3a4148;
    --link: #8ab8f5 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
h1, h2, h3 { line-height: 1.2 }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
a { color: var(--link) }
nav { padding: .5rem 1rem; background: var(--soft); border-radius: .5rem }
nav ul { margin: .3rem 0; padding-left: 1.2rem }
table { display: block; max-width: 100%; overflow-x: auto; border-collapse: collapse;
  font-size: .88rem; font-variant-numeric: tabular-nums; margin: .8rem 0 }
th, td { padding: .25rem .6rem; border: 1px solid var(--line); text-align: right;
  overflow-wrap: normal; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
th { background: var(--soft) }
td.long, th.long { text-align: left; white-space: normal; min-width: 14rem }
.pictures { display: grid; gap: .8rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)) }
.pictures.one { grid-template-columns: minmax(0, 1fr) }
figure { margin: 0; padding: .5rem; background: var(--soft); border-radius: .5rem }
img { display: block; max-width: 100%; height: auto; margin: 0 auto;
  background: #fff }
.one figure { overflow-x: auto }
.one img.wide { max-width: none; width: max(100%, 46rem) }
figcaption { margin-top: .4rem; font-size: .85rem }
"""


# Characters from which on a cell of a table may be broken, and pixels from which on a
# picture may be wider than the page, which then scrolls: plots stay readable on phones.
_LONG_CELL: Final = 36
_WIDE: Final = 1000


def from_pixels(
    pixels: np.ndarray, caption: str, alt: str, max_side: int, quality: int = 90
) -> Picture:
    """Returns a picture as WebP, of the size that a page needs.

    Args:
      pixels: [H, W], [H, W, 1 or 3] uint8.
      caption: what is seen.
      alt: the same, for who does not see it.
      max_side: pixels of the longer side, at the most; larger ones are scaled, and the
        pixels of small ones become squares.
      quality: of WebP, 0 to 100.
    """
    if pixels.shape[2:] == (1,):
        pixels = pixels[:, :, 0]
    scale = max(1, max_side // max(pixels.shape[:2]))
    image = Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=quality, method=4)
    return Picture(
        buffer.getvalue(), "image/webp", (image.height, image.width), caption, alt
    )


def from_png(data: bytes, caption: str, alt: str) -> Picture:
    """Returns a plot as it is; a PNG file."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        size = image.height, image.width
    return Picture(data, "image/png", size, caption, alt)


def to_html(title: str, sections: Sequence[Section]) -> bytes:
    """Returns the page as one file."""
    # Bytes of names that are not text were decoded as lone surrogates.
    return "\n".join(_html(title, sections)).encode("utf-8", "backslashreplace")


def to_markdown(title: str, sections: Sequence[Section]) -> bytes:
    """Returns the text of the page, with captions instead of pictures."""
    lines = [f"# {literal(title)}", ""]
    for section in sections:
        lines += [f"{'#' * section.level} {literal(section.title)}", ""]
        for block in section.blocks:
            if isinstance(block, str):
                lines += [block.rstrip("\n"), ""]
            else:
                lines += [f"- {literal(picture.caption)}" for picture in block] + [""]
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def _html(title: str, sections: Sequence[Section]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # An empty one: else browsers ask the file's folder for one.
    yield '<link rel="icon" href="data:,">'
    yield f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>"
    yield f"<body>\n<h1>{html.escape(title)}</h1>"
    yield f'<nav aria-label="Contents">\n{_contents(sections)}\n</nav>\n<main>'
    for number, section in enumerate(sections):
        tag = f"h{section.level}"
        yield f'<section id="s{number}">\n<{tag}>{html.escape(section.title)}</{tag}>'
        for block in section.blocks:
            yield _to_html(block) if isinstance(block, str) else _figures(block)
        yield "</section>"
    yield "</main>\n</body>\n</html>\n"


def _contents(sections: Sequence[Section]) -> str:
    entries, depth = [], 1
    for number, section in enumerate(sections):
        # A list in the entry above it, or the end of that entry and its lists.
        deeper = section.level - depth
        entries.append(
            "<ul>" * deeper if deeper > 0 else "</li></ul>" * -deeper + "</li>"
        )
        entries.append(f'<li><a href="#s{number}">{html.escape(section.title)}</a>')
        depth = section.level
    return "\n".join([*entries, "</li></ul>" * (depth - 1)])


def _to_html(text: str) -> str:
    """Returns Markdown as HTML, with tables whose long cells may be broken."""
    parser = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.disable(["image", "link", "autolink", "reference"])
    tokens = parser.parse(text)
    for before, token in itertools.pairwise(tokens):
        if before.type in ("td_open", "th_open") and len(token.content) > _LONG_CELL:
            before.attrJoin("class", "long")
    return parser.renderer.render(tokens, parser.options, {})


def _figures(pictures: Iterable[Picture]) -> str:
    figures = [_figure(picture) for picture in pictures]
    kind = "pictures one" if len(figures) == 1 else "pictures"
    return "\n".join([f'<div class="{kind}">', *figures, "</div>"])


def _figure(picture: Picture) -> str:
    height, width = picture.size
    data = base64.b64encode(picture.data).decode()
    kind = ' class="wide"' if width >= _WIDE else ""
    return (
        f'<figure>\n<img{kind} alt="{html.escape(picture.alt)}" height="{height}" '
        f'width="{width}" src="data:{picture.mime};base64,{data}">\n'
        f"<figcaption>{html.escape(picture.caption)}</figcaption>\n</figure>"
    )
