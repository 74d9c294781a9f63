"""Put the parts of a report together as one page without outside files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from verglas.viewers.picture import Missing, Picture
from verglas.viewers.scene import TextTable
from verglas.viewers.words import count_text, seconds_text

__all__ = ["Fact", "Page", "Param", "Reference", "StepView", "render_page"]


@dataclass(frozen=True)
class Fact:
    """A name and a value, as texts."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Param:
    """A parameter as shown: title, value with unit, help, and whether it was changed."""

    name: str
    title: str
    value: str
    help: str = ""
    is_changed: bool = False

    @property
    def is_long(self) -> bool:
        """Whether the value needs a line of its own."""
        return len(self.value) > 22


@dataclass(frozen=True)
class Reference:
    """A source, numbered by its place in the list; `doi` may be empty."""

    number: int
    text: str
    doi: str = ""


@dataclass(frozen=True)
class StepView:
    """One job as shown.

    Attributes:
        id: as `j12`, also its anchor on the page.
        label: of the protocol, or the one that a person gave.
        protocol: id.
        summary: first line of the protocol's help.
        status: as `done`.
        seconds: that it took.
        items_in, items_out: number of items by port: (port, kind, count).
        params: changed ones first.
        numbers: key numbers.
        warnings, notes: texts.
        error: why it failed.
        stale: why it is out of date.
        shown: what its panels became, in order.
    """

    id: str
    label: str
    protocol: str
    summary: str = ""
    status: str = "done"
    seconds: float = 0.0
    items_in: tuple[tuple[str, str, int], ...] = ()
    items_out: tuple[tuple[str, str, int], ...] = ()
    params: tuple[Param, ...] = ()
    numbers: tuple[Fact, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    stale: tuple[str, ...] = ()
    shown: tuple[Picture | TextTable | Missing | str, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures among what is shown."""
        return tuple(item for item in self.shown if isinstance(item, Picture))

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Pictures that could not be made."""
        return tuple(item for item in self.shown if isinstance(item, Missing))

    @property
    def tables(self) -> tuple[TextTable, ...]:
        """The tables among what is shown."""
        return tuple(item for item in self.shown if isinstance(item, TextTable))

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences among what is shown."""
        return tuple(item for item in self.shown if isinstance(item, str))

    @property
    def changed(self) -> tuple[Param, ...]:
        """Parameters that differ from their defaults."""
        return tuple(param for param in self.params if param.is_changed)

    @property
    def unchanged(self) -> tuple[Param, ...]:
        """Parameters at their defaults."""
        return tuple(param for param in self.params if not param.is_changed)


@dataclass(frozen=True)
class Page:
    """Everything on the page."""

    title: str
    subtitle: str
    date: str
    highlights: Sequence[Fact] = ()
    graph_svg: str = ""
    is_graph_narrow: bool = True
    steps: Sequence[StepView] = ()
    methods: Sequence[str] = ()
    references: Sequence[Reference] = ()
    environment: Sequence[Fact] = ()
    hero: Picture | None = None
    notices: Sequence[str] = field(default_factory=tuple)


def render_page(page: Page) -> str:
    """Write the page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["seconds"] = seconds_text
    environment.globals["count_text"] = count_text
    folder = resources.files("verglas.viewers") / "templates"
    template = environment.from_string((folder / "report.html.j2").read_text("utf-8"))
    style = (folder / "report.css").read_text("utf-8")
    return template.render(page=page, style=style)
