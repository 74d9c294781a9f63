"""Options from a JSON schema, and values from what was typed."""

from typing import Literal

import pytest

from verglas.cli._schema import (
    option_name,
    parameter_options,
    parse_value,
    schema_values,
    spread_lists,
)
from verglas.sdk import Params, json_schema, param


class Everything(Params):
    """One parameter of each sort."""

    count: int = param(5, ge=0, le=9, help="How many.")
    size_angst: float = param(1.5, gt=0, help="How large.")
    limit: float | None = param(None, help="Or none.")
    is_on: bool = param(True, help="On or off.")
    maybe: bool | None = param(None, help="On, off or unknown.")
    mode: Literal["fast", "good"] = param("fast", help="Which way.")
    order: Literal[1, 2] = param(1, help="Which order.")
    numbers: list[int] = param([], help="Some numbers.")
    names: list[str] = param(["a"], help="Some names.")
    pair: tuple[float, float] = param((0.0, 1.0), help="Two numbers.")
    either: int | str = param("auto", help="A number or a word.")
    file: str = param(help="Must be given.", advanced=True)


SCHEMA = json_schema(Everything)


def option_of(name):
    (found,) = [o for o in parameter_options(SCHEMA) if o.name == name]
    return found.annotation.__metadata__[0]


@pytest.mark.parametrize(
    ("name", "typed", "expected"),
    [
        ("count", "7", 7),
        ("count", "7.5", "7.5"),
        ("size_angst", "2e1", 20.0),
        ("limit", "none", None),
        ("limit", "3", 3.0),
        ("is_on", False, False),
        ("mode", "good", "good"),
        ("numbers", ["1,2", "3"], [1, 2, 3]),
        ("numbers", ["none"], []),
        ("names", ["a,b", "c d"], ["a,b", "c d"]),
        ("either", "12", 12),
        ("either", "auto", "auto"),
        ("file", "12", "12"),
    ],
)
def test_value_has_the_type_of_its_parameter(name, typed, expected):
    value = parse_value(SCHEMA["properties"][name], typed)
    assert value == expected
    assert type(value) is type(expected)


def test_parameters_accept_what_was_parsed():
    typed = {"count": "3", "order": "2", "pair": ["2,3"], "is_on": False, "file": "x", "names": []}
    params = Everything(**schema_values(SCHEMA, typed))
    assert (params.count, params.order, params.pair) == (3, 2, (2.0, 3.0))
    assert params.names == ["a"]
    assert params.is_on is False


def test_help_has_unit_bounds_and_default():
    option = option_of("size_angst")
    assert option.metavar == "NUMBER Å"
    assert option.help == "How large. \\[> 0; default: 1.5 Å]"
    assert option_of("count").help == "How many. \\[>= 0 and <= 9; default: 5]"
    assert option_of("mode").metavar == "fast|good"
    assert option_of("is_on").default == "--is-on/--no-is-on"
    assert option_of("is_on").help.endswith("\\[default: yes]")


def test_required_and_advanced_parameters_are_set_apart():
    assert "required" in option_of("file").help
    assert option_of("file").rich_help_panel == "Advanced parameters"
    assert option_of("count").rich_help_panel == "Parameters"


def test_several_values_may_follow_a_list():
    spread = spread_lists(SCHEMA, ["--names", "a", "b", "--count", "3", "--numbers=1", "2", "-5"])
    assert spread == [
        "--names", "a", "--names", "b", "--count", "3", "--numbers=1", "--numbers", "2",
        "--numbers", "-5",
    ]  # fmt: skip


def test_options_have_dashes():
    assert option_name("box_px") == "--box-px"
