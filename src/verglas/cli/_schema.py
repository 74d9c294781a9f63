"""Turn the JSON schema of parameters into options, and what was typed into values.

Values are only sorted by type here; ranges and choices are checked by the parameters' own
class, so that every way of running a protocol gives the same messages.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

__all__ = [
    "option_name",
    "parameter_options",
    "parse_value",
    "schema_command",
    "schema_values",
    "spread_lists",
]

_CONTEXT = {
    "ignore_unknown_options": True,  # so that the message can name the nearest parameter
    "allow_extra_args": True,
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
}

_NUMBERS: dict[str, Callable[[str], Any]] = {"integer": int, "number": float}
_WORDS = {
    "integer": "INTEGER",
    "number": "NUMBER",
    "array": "LIST",
    "boolean": "",
    "object": "JSON",
}
_TRUE_FALSE = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_BOUNDS = (
    ("exclusiveMinimum", ">"),
    ("minimum", ">="),
    ("exclusiveMaximum", "<"),
    ("maximum", "<="),
)


def option_name(name: str) -> str:
    """Write a parameter as an option: `box_px` gives `--box-px`."""
    return "--" + name.replace("_", "-")


def parameter_options(schema: Mapping[str, Any]) -> list[inspect.Parameter]:
    """Make one option per parameter, as a signature that typer reads.

    Args:
        schema: as `verglas.sdk.json_schema` gives it.
    """
    options = []
    for name, raw in schema["properties"].items():
        entry = _resolved(raw, schema)
        is_required = name in schema["required"]
        if entry.get("advanced"):
            panel = "Advanced parameters"
        else:
            panel = "Parameters that must be given" if is_required else "Parameters"
        option = typer.Option(
            _declaration(name, entry),
            help=_help(entry, is_required=is_required),
            metavar=_metavar(entry) or None,
            rich_help_panel=panel,
            show_default=False,
        )
        annotation: Any = Annotated[_python_type(entry), option]
        keyword = inspect.Parameter.KEYWORD_ONLY
        options.append(inspect.Parameter(name, keyword, default=None, annotation=annotation))
    return options


def schema_command(
    function: Callable[..., None],
    options: Sequence[inspect.Parameter],
    *,
    name: str,
    schema: Mapping[str, Any],
    doc: str,
) -> Any:
    """Make a command of a function whose options are only known now.

    Options that nobody knows are left in `ctx.args`, for a message that names the nearest.

    Args:
        function: takes `ctx` and the options by keyword.
        options: in the order of the help page.
        name: of the command.
        schema: of the parameters, whose lists may be given as several values in a row.
        doc: help page; its first line is the summary.
    """
    context = inspect.Parameter(
        "ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    parameters = (context, *options)
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {option.name: option.annotation for option in parameters}
    single = typer.Typer(add_completion=False)
    single.command(
        name=name,
        help=_plain(_unfolded(doc)),
        short_help=doc.partition("\n")[0],
        context_settings=_CONTEXT,
    )(function)
    command: Any = typer.main.get_command(single)
    parse = command.parse_args

    def parse_spread(ctx: Any, args: Sequence[str]) -> Any:
        return parse(ctx, spread_lists(schema, args))

    command.parse_args = parse_spread
    return command


def schema_values(schema: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that were given, as values of their parameters' types.

    Args:
        schema: of the parameters.
        given: what typer hands over; None, or an empty list, was not given.
    """
    return {
        name: parse_value(_resolved(entry, schema), given[name])
        for name, entry in schema["properties"].items()
        if given.get(name) not in (None, [], ())
    }


def parse_value(entry: Mapping[str, Any], typed: Any) -> Any:
    """Turn what was typed into a value; what does not fit stays text, to be refused later.

    Args:
        entry: of the schema.
        typed: text, a list of texts, or True or False.
    """
    types = _types(entry)
    if isinstance(typed, bool):
        return typed
    if "array" in types:
        return _parse_list(entry, [typed] if isinstance(typed, str) else list(typed))
    if "null" in types and typed.lower() in ("none", "null"):
        return None
    for word, parse in _NUMBERS.items():
        if word in types:
            try:
                return parse(typed)
            except ValueError:
                continue
    if "boolean" in types:
        return _TRUE_FALSE.get(typed.lower(), typed)
    if types & {"object", ""}:
        try:
            return json.loads(typed)
        except ValueError:
            return typed
    return typed


def spread_lists(schema: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """Let an option that takes a list be followed by several values, as a shell's `*` gives.

    Args:
        schema: of the parameters.
        arguments: as typed.
    """
    names = {
        option_name(name)
        for name, entry in schema["properties"].items()
        if "array" in _types(_resolved(entry, schema))
    }
    spread: list[str] = []
    current, has_value = "", False
    for argument in arguments:
        if argument.startswith("--") or (argument.startswith("-") and argument[1:2].isalpha()):
            option, equals, _ = argument.partition("=")
            normal = option.replace("_", "-")
            current, has_value = (normal, bool(equals)) if normal in names else ("", False)
        elif current:
            if has_value:
                spread.append(current)
            has_value = True
        spread.append(argument)
    return spread


def _parse_list(entry: Mapping[str, Any], typed: Sequence[str]) -> list[Any]:
    """Read a list given as repeated options; numbers and choices may be joined by commas."""
    items = entry.get("items", {})
    is_text = _types(items) == {"string"} and "enum" not in items
    parts = list(typed) if is_text else [part for text in typed for part in text.split(",")]
    if [part.strip().lower() for part in parts] in (["none"], [""]):
        return []
    return [parse_value(items, part if is_text else part.strip()) for part in parts]


def _resolved(entry: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a reference points at in its place."""
    found = dict(entry)
    name = str(found.pop("$ref", "")).rpartition("/")[2]
    return {**schema.get("$defs", {}).get(name, {}), **found} if name else found


def _types(entry: Mapping[str, Any]) -> set[str]:
    """List the types that an entry allows; the empty word stands for anything."""
    if "anyOf" in entry:
        return set().union(*(_types(choice) for choice in entry["anyOf"]))
    declared = entry.get("type", "")
    return set(declared) if isinstance(declared, list) else {declared}


def _python_type(entry: Mapping[str, Any]) -> Any:
    types = _types(entry) - {"null"}
    if types == {"boolean"}:
        return bool | None
    return list[str] | None if "array" in types else str | None


def _declaration(name: str, entry: Mapping[str, Any]) -> str:
    option = option_name(name)
    if _types(entry) - {"null"} == {"boolean"}:
        return f"{option}/--no-{option[2:]}"
    return option


def _metavar(entry: Mapping[str, Any]) -> str:
    types = _types(entry) - {"null"}
    if types == {"boolean"}:
        return ""
    choices = [choice for choice in entry.get("enum", ()) if choice is not None]
    if choices:
        return "|".join(str(choice) for choice in choices)
    word = next((_WORDS[known] for known in _WORDS if known in types), "TEXT")
    return f"{word} {entry['unit']}" if "unit" in entry else word


def _help(entry: Mapping[str, Any], *, is_required: bool) -> str:
    notes = []
    bounds = [f"{sign} {entry[key]:g}" for key, sign in _BOUNDS if key in entry]
    if bounds:
        notes.append(" and ".join(bounds))
    if is_required:
        notes.append("required")
    elif "default" in entry:
        unit = f" {entry['unit']}" if "unit" in entry and entry["default"] is not None else ""
        notes.append(f"default: {_default_text(entry['default'])}{unit}")
    if entry.get("show_if"):
        notes.append("only with " + ", ".join(f"{k} = {v}" for k, v in entry["show_if"].items()))
    note = f" [{'; '.join(notes)}]" if notes else ""
    return _plain(f"{entry.get('description', '')}{note}")


def _default_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "empty"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _unfolded(text: str) -> str:
    """Join the lines of each paragraph, so that they are folded to the terminal's width."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "\n\n".join(paragraphs)


def _plain(text: str) -> str:
    """Keep rich from reading brackets as markup."""
    return text.replace("[", "\\[")
