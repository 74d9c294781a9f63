"""The drawing of the workflow: layers by the longest path, links that go round jobs."""

import xml.etree.ElementTree as ElementTree

import pytest

from verglas.viewers.graph import NODE_HEIGHT, NODE_WIDTH, Node, draw_graph, lay_out
from verglas.viewers.graph import longest_path_layers as layers

CHAIN = [("a", "b"), ("b", "c"), ("a", "c")]


def test_depth_is_the_longest_path():
    assert layers("abc", CHAIN) == {"a": 0, "b": 1, "c": 2}


def test_loop_is_refused():
    with pytest.raises(ValueError, match=r"loop through \['a', 'b'\]"):
        layers("ab", [("a", "b"), ("b", "a")])


def test_jobs_do_not_overlap():
    nodes = [f"n{i}" for i in range(12)]
    links = [(nodes[i // 3], nodes[i]) for i in range(1, 12)]
    centres = list(lay_out(nodes, links).centres.values())
    for i, (x, y) in enumerate(centres):
        for other_x, other_y in centres[:i]:
            assert abs(y - other_y) >= NODE_HEIGHT or abs(x - other_x) >= NODE_WIDTH


def test_link_that_passes_a_layer_goes_round_the_job_there():
    layout = lay_out("abc", CHAIN)
    middle_x, middle_y = layout.centres["b"]
    at_b = [x for x, y in layout.paths["a", "c"] if abs(y - middle_y) <= NODE_HEIGHT / 2]
    assert at_b
    assert all(abs(x - middle_x) > NODE_WIDTH / 2 for x in at_b)


def test_everything_lies_inside_the_drawing():
    layout = lay_out("abcd", [*CHAIN, ("d", "c")])
    points = [*layout.centres.values(), *(p for path in layout.paths.values() for p in path)]
    assert all(0 <= x <= layout.width and 0 <= y <= layout.height for x, y in points)


def test_chain_is_straight():
    layout = lay_out("abc", [("a", "b"), ("b", "c")])
    assert len({x for x, _ in layout.centres.values()}) == 1


def test_drawing_is_well_formed_and_links_to_the_steps():
    nodes = [Node("j1", "Import <x>", "3 items"), Node("j2", "Fit & see", status="failed")]
    svg, _ = draw_graph(nodes, {("j1", "j2"): 'a "b"'})
    root = ElementTree.fromstring(svg)
    links = [element.get("href") for element in root.iter() if element.tag.endswith("}a")]
    assert links == ["#j1", "#j2"]
    assert 'Import <x> gives a "b" to Fit & see' in root.get("aria-label")


def test_empty_graph_is_drawn():
    svg, layout = draw_graph([], {})
    assert (layout.height, ElementTree.fromstring(svg).tag[-3:]) == (0, "svg")
