"""The comparison as a picture: a bar for each scenario, its throughput over nginx's."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from loadtests.compare.figures import Floor
from loadtests.compare.kinds import KINDS
from loadtests.compare.table import Outcome

_WIDTH: Final = 760
_LEFT: Final = 270
_TOP: Final = 52
_ROW: Final = 26
_BAR: Final = 18
_UNIT: Final = 200  # pixels of a ratio of 1
_MOST_SHOWN: Final = 2.0
_FOOT: Final = 34
# Two colours that stand out from white and from black alike, told apart by lightness too; the ground is the page's.
_STYLE: Final = """<style>
text{font:13px sans-serif;fill:#57606a}.title{fill:#24292f;font-weight:bold}text.small{font-size:11px}
.above{fill:#2f81f7}.below{fill:#9a6700}.equal{stroke:#8b949e;stroke-dasharray:4 3}
@media(prefers-color-scheme:dark){text{fill:#9da7b3}.title{fill:#e6edf3}.below{fill:#d29922}}
</style>"""


def bars(outcomes: Sequence[Outcome]) -> list[tuple[str, float]]:
    """Title and ratio of each scenario whose throughput can be set beside nginx's."""
    found = []
    for outcome in outcomes:
        nginx = next((kind for kind in outcome.kinds if KINDS[kind].family == "nginx"), None)
        if nginx is not None and outcome.scenario.metric in {"rate", "bytes_rate"}:
            measured = outcome.ratio(Floor(nginx, 0, outcome.scenario.metric))
            if measured is not None:
                found.append((outcome.scenario.title, measured))
    return found


def as_svg(outcomes: Sequence[Outcome], about: Mapping[str, str]) -> str:
    """The picture, with a line where both are equal. A bar that would leave it is cut; its number is not."""
    rows = bars(outcomes)
    height = _TOP + len(rows) * _ROW + _FOOT
    equal = _LEFT + _UNIT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        "<title>Throughput of Sidecache over nginx</title>",
        _STYLE,
        '<text class="title" x="8" y="20">Throughput of Sidecache over nginx, one core each</text>',
        f'<text class="small" x="{equal}" y="{_TOP - 12}" text-anchor="middle">1 = nginx</text>',
    ]
    for number, (title, measured) in enumerate(rows):
        y = _TOP + number * _ROW
        width = max(min(measured, _MOST_SHOWN) * _UNIT, 2)
        colour = "above" if measured >= 1 else "below"
        # The number stands clear of the line where both are equal.
        label = _LEFT + width + 6
        if label < equal + 6 and label + 32 > equal - 4:
            label = equal + 6
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(title)}</text>')
        parts.append(f'<rect class="{colour}" x="{_LEFT}" y="{y}" width="{width:.0f}" height="{_BAR}" rx="2"/>')
        parts.append(f'<text x="{label:.0f}" y="{y + 14}">{measured:.2f}</text>')
    bottom = _TOP + len(rows) * _ROW
    parts.append(f'<line class="equal" x1="{equal}" x2="{equal}" y1="{_TOP - 6}" y2="{bottom}"/>')
    foot = f"{about['at']}, {about['processor']}, nginx {about['nginx']}"
    parts.append(f'<text class="small" x="8" y="{height - 10}">{escape(foot)}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
