"""Draw a workflow as layers from top to bottom, positions worked out here.

A job lies below everything that it depends on, by the longest path. Links that pass layers
get invisible places there, so that they go round the jobs in between. Neighbours are ordered
by the mean place of what they are joined to.

References:
    Sugiyama, Tagawa & Toda 1981, doi:10.1109/TSMC.1981.4308636.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

__all__ = ["Layout", "Node", "draw_graph", "lay_out", "longest_path_layers"]

NODE_WIDTH = 196
NODE_HEIGHT = 46
_LANE_WIDTH = 14  # of a link that passes a layer
_GAP_X, _GAP_Y = 14, 26
_MARGIN = 6
_SWEEPS = 6


@dataclass(frozen=True)
class Node:
    """A job in the drawing: its anchor, two lines of text, and its state."""

    id: str
    title: str
    subtitle: str = ""
    status: str = "done"
    is_stale: bool = False


@dataclass(frozen=True)
class Layout:
    """Where things are.

    Attributes:
        centres: x, y of each node.
        paths: for each link the points that it passes, from bottom of one to top of the other.
        width, height: of the drawing.
    """

    centres: dict[str, tuple[float, float]]
    paths: dict[tuple[str, str], list[tuple[float, float]]]
    width: float
    height: float


def longest_path_layers(nodes: Sequence[str], links: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Give each node the length of the longest path that leads to it.

    Args:
        nodes: ids.
        links: source and target; without loops.
    """
    sources: dict[str, list[str]] = {node: [] for node in nodes}
    targets: dict[str, list[str]] = {node: [] for node in nodes}
    for source, target in links:
        sources[target].append(source)
        targets[source].append(target)
    waiting = {node: len(found) for node, found in sources.items()}
    ready = [node for node in nodes if not waiting[node]]
    layers: dict[str, int] = {}
    while ready:
        node = ready.pop(0)
        layers[node] = max((layers[source] + 1 for source in sources[node]), default=0)
        for target in targets[node]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if len(layers) < len(waiting):
        raise ValueError(f"the graph has a loop through {sorted(set(waiting) - set(layers))}")
    return layers


def lay_out(nodes: Sequence[str], links: Sequence[tuple[str, str]]) -> Layout:
    """Find a place for every node and a path for every link.

    Args:
        nodes: ids, in the order that ties keep.
        links: source and target; repeated ones are drawn once.
    """
    links = list(dict.fromkeys(links))
    layers = longest_path_layers(nodes, links)
    rows, chains = _with_lanes(nodes, links, layers)
    hops = [hop for chain in chains.values() for hop in pairwise(chain)]
    _order(rows, hops)
    places = _place(rows, hops)
    shift = _MARGIN - min((x - _width(name) / 2 for name, x in places.items()), default=0)
    row_of = {name: number for number, row in enumerate(rows) for name in row}

    def point(name: str, side: float) -> tuple[float, float]:
        middle = _MARGIN + NODE_HEIGHT / 2 + row_of[name] * (NODE_HEIGHT + _GAP_Y)
        return places[name] + shift, middle + side * NODE_HEIGHT / 2

    paths = {}
    for link, chain in chains.items():
        inner = [point(name, side) for name in chain[1:-1] for side in (-1.0, 1.0)]
        paths[link] = [point(chain[0], 1.0), *inner, point(chain[-1], -1.0)]
    width = max((x + shift + _width(name) / 2 for name, x in places.items()), default=0) + _MARGIN
    height = 2 * _MARGIN + len(rows) * (NODE_HEIGHT + _GAP_Y) - _GAP_Y if rows else 0
    return Layout({node: point(node, 0.0) for node in nodes}, paths, width, height)


def draw_graph(nodes: Sequence[Node], links: Mapping[tuple[str, str], str]) -> tuple[str, Layout]:
    """Draw jobs and links as SVG whose colours are those of the page.

    Args:
        nodes: in order.
        links: source and target, with what is passed on.

    Returns:
        The text of the SVG, and the layout.
    """
    layout = lay_out([node.id for node in nodes], list(links))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width:g} {layout.height:g}" '
        f'width="{layout.width:g}" height="{layout.height:g}" role="img" '
        f'font-family="inherit" aria-label="{escape(_described(nodes, links))}">'
    ]
    for link, path in layout.paths.items():
        parts.append(
            f'<path d="{_curve(path)}" fill="none" stroke="var(--soft)" stroke-opacity=".65" '
            f'stroke-width="1.5"><title>{escape(links[link])}</title></path>'
        )
    parts += [_draw_node(node, *layout.centres[node.id]) for node in nodes]
    parts.append("</svg>")
    return "\n".join(parts), layout


def _width(name: str) -> float:
    return _LANE_WIDTH if _is_lane(name) else NODE_WIDTH


def _with_lanes(
    nodes: Sequence[str], links: Sequence[tuple[str, str]], layers: Mapping[str, int]
) -> tuple[list[list[str]], dict[tuple[str, str], list[str]]]:
    """Fill the layers, with a place in each layer for links that pass it."""
    rows: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for node in nodes:
        rows[layers[node]].append(node)
    chains = {}
    for source, target in links:
        passed = range(layers[source] + 1, layers[target])
        lanes = [f"\0{source}>{target}@{layer}" for layer in passed]
        for layer, lane in zip(passed, lanes, strict=True):
            rows[layer].append(lane)
        chains[source, target] = [source, *lanes, target]
    return rows, chains


def _neighbours(hops: Sequence[tuple[str, str]]) -> tuple[dict[str, list[str]], ...]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for upper, lower in hops:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    return above, below


def _order(rows: list[list[str]], hops: Sequence[tuple[str, str]]) -> None:
    """Sort each row by the mean place of its neighbours, down and up a few times."""
    above, below = _neighbours(hops)
    for sweep in range(_SWEEPS):
        joined = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            place = {name: i / len(r) for r in rows for i, name in enumerate(r)}
            keys = {
                name: sum(place[n] for n in joined[name]) / len(joined[name])
                if joined.get(name)
                else place[name]
                for name in row
            }
            row.sort(key=lambda name: (keys[name], _is_lane(name)))


def _place(rows: Sequence[Sequence[str]], hops: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Move each node towards its neighbours as far as those beside it allow."""
    above, below = _neighbours(hops)
    x: dict[str, float] = {}
    for row in rows:
        left = 0.0
        for name in row:
            x[name] = left + _width(name) / 2
            left += _width(name) + _GAP_X
        for name in row:
            x[name] -= (left - _GAP_X) / 2
    for sweep in range(4 * _SWEEPS):
        joined = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = {n: _middle(n, joined[n], x) if joined.get(n) else x[n] for n in row}
            _spread(row, wish, x)
    return x


def _middle(name: str, joined: Sequence[str], x: Mapping[str, float]) -> float:
    """Mean place of the neighbours; links that go round weigh little: chains are straight."""
    weights = [1.0 if _is_lane(name) == _is_lane(other) else 0.01 for other in joined]
    pairs = zip(weights, joined, strict=True)
    return sum(weight * x[other] for weight, other in pairs) / sum(weights)


def _is_lane(name: str) -> bool:
    return name.startswith("\0")


def _spread(row: Sequence[str], wish: Mapping[str, float], x: dict[str, float]) -> None:
    """Put a row near its wishes without overlaps: jobs first, lanes give way."""
    firm = [i for i, name in enumerate(row) if not _is_lane(name)] or [0]
    anchor = firm[len(firm) // 2]
    x[row[anchor]] = wish[row[anchor]]
    for i in range(anchor + 1, len(row)):
        least = x[row[i - 1]] + (_width(row[i - 1]) + _width(row[i])) / 2 + _GAP_X
        x[row[i]] = max(least, wish[row[i]])
    for i in range(anchor - 1, -1, -1):
        most = x[row[i + 1]] - (_width(row[i + 1]) + _width(row[i])) / 2 - _GAP_X
        x[row[i]] = min(most, wish[row[i]])


def _curve(points: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = points
    text = [f"M{x:.1f} {y:.1f}"]
    for next_x, next_y in rest:
        middle = (y + next_y) / 2
        if next_x == x:
            text.append(f"V{next_y:.1f}")
        else:
            text.append(
                f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}"
            )
        x, y = next_x, next_y
    return "".join(text)


def _draw_node(node: Node, x: float, y: float) -> str:
    left, top = x - NODE_WIDTH / 2, y - NODE_HEIGHT / 2
    colours = {
        "done": "var(--accent)",
        "failed": "var(--bad)",
        "running": "var(--warn)",
        "queued": "var(--warn)",
        "asking": "var(--warn)",
    }
    colour = colours.get(node.status, "var(--soft)")
    dash = ' stroke-dasharray="4 3"' if node.is_stale or node.status != "done" else ""
    state = node.status + (", out of date" if node.is_stale else "")
    return (
        f'<a href="#{escape(node.id)}"><title>{escape(f"{node.title}: {state}")}</title>'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="7" '
        f'fill="var(--card)" stroke="var(--line)"{dash}/>'
        f'<rect x="{left:.1f}" y="{top + 8:.1f}" width="3" height="{NODE_HEIGHT - 16}" rx="1.5" '
        f'fill="{colour}"/>'
        f'<text x="{left + 13:.1f}" y="{y - 4:.1f}" font-size="13" font-weight="600" '
        f'fill="var(--ink)">{escape(_cut(node.title, 25))}</text>'
        f'<text x="{left + 13:.1f}" y="{y + 13:.1f}" font-size="11.5" '
        f'fill="var(--soft)">{escape(_cut(node.subtitle, 31))}</text></a>'
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _described(nodes: Sequence[Node], links: Mapping[tuple[str, str], str]) -> str:
    names = {node.id: node.title for node in nodes}
    lines = [f"{names[a]} gives {what} to {names[b]}" for (a, b), what in links.items()]
    return "Workflow of " + ", ".join(names.values()) + (". " + "; ".join(lines) if lines else "")
