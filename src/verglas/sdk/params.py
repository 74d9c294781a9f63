"""Declare the parameters of a protocol: form, options and documentation at once.

    class LogParams(Params):
        diameter_angst: float = param(help="Diameter of the particle.", gt=0)
        n_scales: int = param(5, ge=1, le=50, help="Number of sizes tried.", advanced=True)

The unit is read from the suffix of the name. Parameters are frozen, unknown ones are
refused with the nearest valid name, and one JSON schema serves command line, API and page.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from verglas.core.errors import ParamsError
from verglas.core.units import unit_of

__all__ = ["Params", "changed_params", "json_schema", "param"]


def param(
    default: Any = PydanticUndefined,
    *,
    help: str,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
    advanced: bool = False,
    show_if: Mapping[str, Any] | None = None,
) -> Any:
    """Declare one parameter; choices are a `Literal` annotation.

    Args:
        default: left out for a parameter that must be given.
        help: one or two sentences for people.
        gt, ge, lt, le: bounds.
        advanced: hide it until a person asks for more.
        show_if: show it only where other parameters have these values; a list of values
            means any of them.
    """
    return Field(
        default,
        description=help,
        gt=gt,
        ge=ge,
        lt=lt,
        le=le,
        json_schema_extra={"advanced": advanced, "show_if": dict(show_if or {})},
    )


class Params(BaseModel):
    """Base class of the parameters of a protocol."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    protocol_id: ClassVar[str] = ""
    """Set by `@protocol`; names the protocol in messages."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _params_error(type(self), error) from None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a declaration without help, or that depends on an unknown parameter."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, info in cls.model_fields.items():
            if not info.description:
                raise TypeError(f"{cls.__name__}.{name} has no help: declare it with param()")
            unknown = set(_extra(info).get("show_if", {})) - set(cls.model_fields)
            if unknown:
                raise TypeError(f"{cls.__name__}.{name} is shown by unknown {sorted(unknown)}")


def json_schema(params: type[Params]) -> dict[str, Any]:
    """Describe parameters for forms and options.

    Returns:
        A JSON schema of type object. Each property has `type`, `title`, `description` and,
        where they apply, `default`, `minimum`, `exclusiveMinimum`, `maximum`,
        `exclusiveMaximum`, `enum`, `unit`, `advanced` and `show_if`. A parameter that may
        be left empty has `"null"` among its types.
    """
    schema = params.model_json_schema()
    for name, entry in schema.get("properties", {}).items():
        _simplify_optional(entry)
        if "const" in entry:
            entry["enum"] = [entry.pop("const")]
        unit = unit_of(name)
        if unit is not None:
            entry["unit"] = unit.symbol
        if not entry.get("show_if"):
            entry.pop("show_if", None)
    schema.setdefault("properties", {})
    schema.setdefault("required", [])
    return schema


def changed_params(params: Params) -> dict[str, Any]:
    """Give the parameters that differ from their defaults, as JSON values."""
    fields = type(params).model_fields
    values = params.model_dump(mode="json")
    return {
        name: values[name]
        for name, info in fields.items()
        if info.is_required() or getattr(params, name) != info.get_default()
    }


def _extra(info: FieldInfo) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _simplify_optional(entry: dict[str, Any]) -> None:
    """Turn `anyOf: [X, null]` into X whose types include null."""
    choices = entry.get("anyOf")
    if choices is None or {"type": "null"} not in choices or len(choices) != 2:
        return
    (other,) = (choice for choice in choices if choice != {"type": "null"})
    del entry["anyOf"]
    entry.update(other)
    entry["type"] = [other.get("type", "string"), "null"]
    if "enum" in entry:
        entry["enum"] = [*entry["enum"], None]


def _params_error(params: type[Params], error: ValidationError) -> ParamsError:
    owner = params.protocol_id or params.__name__
    texts = [_problem_text(params, owner, detail) for detail in error.errors()]
    hint = None
    for detail in error.errors():
        if detail["type"] == "extra_forbidden":
            hint = _nearest_hint(params, str(detail["loc"][0]))
            break
    return ParamsError("; ".join(texts), hint)


def _problem_text(params: type[Params], owner: str, detail: ErrorDetails) -> str:
    name = ".".join(str(part) for part in detail["loc"][:1])
    if detail["type"] == "extra_forbidden":
        return f"{owner} has no parameter {name!r}"
    if detail["type"] == "missing":
        return f"{owner} needs {name}: got nothing"
    if not name:
        return f"{owner}: {detail['msg'].removeprefix('Value error, ')}"
    unit = unit_of(name)
    symbol = f" {unit.symbol}" if unit else ""
    expected = _expected_text(detail)
    return f"{owner} {name}: got {detail['input']!r}{symbol}, expected {expected}"


def _expected_text(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    for key, sign in signs.items():
        if key in context:
            return f"{sign} {context[key]!r}"
    if detail["type"] == "literal_error":
        return str(context["expected"])
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return text[:1].lower() + text[1:]


def _nearest_hint(params: type[Params], name: str) -> str:
    # the name without its unit is the commonest slip
    nearest = [field for field in params.model_fields if field.startswith(f"{name}_")]
    nearest += get_close_matches(name, params.model_fields, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    return f"its parameters are {', '.join(params.model_fields) or 'none'}"
