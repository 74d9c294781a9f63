"""Write the Methods paragraph of a project: a sentence or two for each step.

Each known protocol has a function that makes its sentences from parameters and results, and
leaves out what a job does not say. Protocols of plugins get a sentence of the general form.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from verglas.core.units import ANGST_PER_UM
from verglas.viewers._methods_classes3d import CLASSES3D_SENTENCES
from verglas.viewers._methods_motion import MOTION_SENTENCES
from verglas.viewers._methods_movies import MOVIE_SENTENCES
from verglas.viewers._methods_picking import PICKING_SENTENCES
from verglas.viewers._methods_sets import SET_SENTENCES
from verglas.viewers.page import Reference
from verglas.viewers.words import count_text, quantity_text, title_of, value_text

__all__ = ["MethodStep", "write_methods"]

_NON_UNIFORM = "10.1038/s41592-020-00990-8"
_DOI = re.compile(r"(?:doi:|https?://(?:dx\.)?doi\.org/)\s*(\S+)", re.IGNORECASE)
_STAGES = (
    ("movies.", "micrographs.", "ctf.", "coordinates.", "simulate."),
    ("particles.", "classes2d."),
    ("volumes.",),
)
_VERGLAS = "verglas"


@dataclass(frozen=True)
class MethodStep:
    """What a paragraph needs to know of a job.

    Attributes:
        protocol: id.
        label: of the protocol.
        params: all parameters.
        changed: those that were given.
        numbers: key numbers.
        items_in, items_out: by port: kind and count.
        citations: as the protocol states them, `Author Year, doi:...`.
    """

    protocol: str
    label: str
    params: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    items_in: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    items_out: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    citations: tuple[str, ...] = ()

    def get(self, name: str) -> Any:
        """Look up a parameter, or a key number of that name; None where it is empty."""
        for values in (self.params, self.numbers):
            if values.get(name) not in ("", [], None):
                return values[name]
        return None

    def text(self, form: str, *names: str) -> str:
        """Fill a form with quantities; empty if one of them is not known."""
        values = [self.get(name) for name in names]
        if any(value is None for value in values):
            return ""
        quantities = (quantity_text(n, v) for n, v in zip(names, values, strict=True))
        return form.format(*quantities)

    def n_in(self, kind: str) -> int | None:
        """Number of items of a kind that were read."""
        return next((count for found, count in self.items_in.values() if found == kind), None)

    def n_out(self, port: str) -> int | None:
        """Number of items that a port gave."""
        return self.items_out[port][1] if port in self.items_out else None


def write_methods(
    steps: Sequence[MethodStep], *, version: str = ""
) -> tuple[list[str], list[Reference]]:
    """Write the paragraphs and the list of references that they name.

    Args:
        steps: that are done, in order.
        version: of the program.

    Returns:
        Plain paragraphs, and the references in the order of their first mention.
    """
    references: dict[str, Reference] = {}
    paragraphs = []
    for stage in (*_STAGES, ()):
        mine = [step for step in steps if _belongs(step.protocol, stage)]
        sentences = [_cited(_sentences(step), step, references) for step in mine]
        text = " ".join(sentence for sentence in sentences if sentence)
        if text:
            paragraphs.append(text)
    if paragraphs:
        program = f"{_VERGLAS.capitalize()} {version}".strip()
        paragraphs[0] = f"Images were processed with {program}. {paragraphs[0]}"
    return paragraphs, list(references.values())


def _belongs(protocol: str, stage: Sequence[str]) -> bool:
    if stage:
        return protocol.startswith(tuple(stage))
    return not protocol.startswith(tuple(prefix for known in _STAGES for prefix in known))


def _sentences(step: MethodStep) -> str:
    write = _SENTENCES.get(step.protocol, _in_general)
    return _tidy(write(step))


def _cited(text: str, step: MethodStep, references: dict[str, Reference]) -> str:
    """Put the numbers of a step's references before the last full stop of its sentences."""
    numbers = []
    for citation in _relevant(step):
        found = _DOI.search(citation)
        doi = found[1].rstrip(".,;") if found else ""
        name = _DOI.sub("", citation).strip(" ,;.")
        key = doi or name
        reference = references.setdefault(key, Reference(len(references) + 1, name, doi))
        numbers.append(reference.number)
    if not numbers or not text:
        return text
    marks = ", ".join(str(number) for number in sorted(set(numbers)))
    return f"{text.removesuffix('.')} [{marks}]."


def _tidy(text: str) -> str:
    """Take out the traces of what was not known."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s+([,.;)])", r"\1", text)


def _micrometres(step: MethodStep, low: str, high: str) -> str:
    first, last = step.get(low), step.get(high)
    if first is None or last is None:
        return ""
    return f" for defoci of {first / ANGST_PER_UM:g} to {last / ANGST_PER_UM:g} µm"


def _import_micrographs(step: MethodStep) -> str:
    n = step.n_out("micrographs")
    what = count_text(n, "micrographs") if n is not None else "Micrographs"
    return (
        f"{what} {'was' if n == 1 else 'were'} imported"
        f"{step.text(', recorded at {}', 'voltage_kv')}"
        f"{step.text(' with a spherical aberration of {}', 'spherical_aberration_mm')}"
        f"{step.text(' and a pixel size of {}', 'pixel_size_angst')}"
        f"{step.text(' (amplitude contrast {})', 'amplitude_contrast')}."
    )


def _simulate(step: MethodStep) -> str:
    made = [count_text(count, kind) for kind, count in step.items_out.values() if count]
    return f"{', '.join(made[:1]) or 'Images'} with known truth were simulated."


def _estimate_ctf(step: MethodStep) -> str:
    kept, put_aside = step.n_out("micrographs"), step.n_out("rejected")
    text = (
        "The contrast transfer function of each micrograph was estimated from its power spectrum"
        f"{_CTF_METHODS.get(str(step.params.get('method')), ('', ()))[0]}"
        f"{step.text(' between {} and {}', 'min_res_angst', 'max_res_angst')}"
        f"{_micrometres(step, 'min_defocus_angst', 'max_defocus_angst')}."
    )
    if kept is not None:
        reach = step.text(" whose Thon rings reach {}", "max_fit_res_angst")
        moved = step.text(" and that moved less than {}", "max_drift_angst")
        median = step.text(" (median fit resolution {})", "median_fit_res_angst")
        of_all = f" of {kept + put_aside}" if put_aside is not None else ""
        text += f" {kept}{of_all} micrographs{reach}{moved} were kept{median}."
    return text


_CTF_METHODS = {
    "likelihood": (" by maximum likelihood", ("Rohou", "Zhang", "Whittle")),
    "correlation": (" by correlation with its amplitude", ("Rohou", "Elferich")),
    "equiphase": (" by averages along equal phase", ("Zhang",)),
    "parametric": (" by a parametric model of noise and envelope", ("Zhang", "Sorzano")),
}
"""What a method is called, and whose papers it rests on."""


def _relevant(step: MethodStep) -> Sequence[str]:
    """Leave out papers on methods that a job did not use."""
    if step.protocol == "particles.refine_3d" and step.get("regularisation") != "non_uniform":
        return [text for text in step.citations if not text.endswith(_NON_UNIFORM)]
    known = _CTF_METHODS.get(str(step.params.get("method")))
    if known is None or step.protocol != "micrographs.estimate_ctf":
        return step.citations
    return [text for text in step.citations if text.startswith(known[1])]


def _ctf_consensus(step: MethodStep) -> str:
    kept, put_aside = step.n_out("micrographs"), step.n_out("rejected")
    how = (
        "averaged by inverse variance" if step.get("average") else "represented by the best of them"
    )
    text = (
        "Several estimates of the contrast transfer function were compared by the resolution at"
        " which their phases differ by 90 degrees, and those that agree"
        f"{step.text(' to {} or finer', 'max_agreement_res_angst')} were {how}."
    )
    if kept is not None:
        median = step.text(" (median agreement {})", "median_agreement_res_angst")
        of_all = f" of {kept + put_aside}" if put_aside is not None else ""
        text += f" {kept}{of_all} micrographs were kept{median}."
    return text


def _pick_log(step: MethodStep) -> str:
    n = step.n_out("coordinates")
    found = f"{count_text(n, 'particles')} were" if n is not None else "Particles were"
    return (
        f"{found} picked as blobs of the particle's size"
        f"{step.text(' (largest diameter {})', 'diameter_angst')} by a Laplacian of Gaussian"
        f"{step.text(', refined by averages of the picks in {} rounds', 'n_rounds')}."
    )


def _pick_network(step: MethodStep) -> str:
    n = step.n_out("coordinates")
    found = f"{count_text(n, 'particles')} were" if n is not None else "Particles were"
    trained = (
        "trained on picks of these data" if "model" in step.items_in else "never shown real data"
    )
    return (
        f"{found} picked{step.text(' (largest diameter {})', 'diameter_angst')} by a fully"
        f" convolutional network that was pretrained on simulated fields of random shapes and"
        f" {trained}{step.text(', at a probability of at least {}', 'threshold')}."
    )


def _train_picker(step: MethodStep) -> str:
    n, held = step.get("n_trained"), step.get("n_held_out")
    recall = step.get("held_out_recall")
    text = "The network was trained further on "
    text += f"{count_text(int(n), 'particles')} picked here" if n is not None else "picks"
    how = "" if step.get("picks_are_complete") else ", unpicked places counting as unlabelled"
    text += f"{how}; training stopped by micrographs held back"
    if recall is not None and held is not None:
        text += f", of whose {held} picks it finds {100 * float(recall):.0f} %"
    return f"{text}."


def _extract(step: MethodStep) -> str:
    n = step.n_out("particles")
    found = f"{count_text(n, 'particles')} were" if n is not None else "Particles were"
    size = step.text(" of {}", "output_px") or step.text(" of {}", "box_px")
    inverted = ", inverted" if step.get("invert") else ""
    flipped = (
        ", multiplied by the sign of the contrast transfer function"
        if step.get("flip_phases")
        else ""
    )
    text = f"{found} cut out in boxes{size}{inverted}{flipped} and normalised to their background."
    dropped, filled = (int(step.get(f"n_at_border_{what}") or 0) for what in ("dropped", "filled"))
    if dropped:
        what = "boxes" if step.get("must_be_inside") == "box" else "particles"
        text += f" Left out were {count_text(dropped, what)} that crossed the micrograph's border."
    if filled:
        text += (
            f" The missing rim of {count_text(filled, 'boxes')} was filled with noise of the "
            "micrograph's power spectrum about the box's background."
        )
    return text


def _classify_2d(step: MethodStep) -> str:
    n = step.n_in("particles")
    k = step.get("n_classes") or step.n_out("classes")
    return (
        f"{count_text(n, 'particles') if n else 'The particles'} were sorted"
        f"{f' into {k} two-dimensional classes' if k else ' into two-dimensional classes'}"
        f"{step.text(' in {} iterations', 'n_iterations')} by maximum likelihood."
    )


def _select_classes(step: MethodStep) -> str:
    kept, before = step.n_out("particles"), step.n_in("particles")
    k = step.n_out("classes")
    classes = f" in {count_text(k, 'classes2d')}" if k is not None else ""
    of_all = f" of {before}" if before is not None else ""
    return f"{kept if kept is not None else 'The'}{of_all} particles{classes} were selected."


def _initial_volume(step: MethodStep) -> str:
    return (
        "An initial map was found from the particles alone, without a reference"
        f"{step.text(', imposing {} symmetry', 'symmetry')}."
    )


def _refine_3d(step: MethodStep) -> str:
    n = step.n_in("particles")
    local = ""
    if step.get("regularisation") == "non_uniform":
        local = ", with references filtered place by place by cross-validation of the halves"
    return (
        f"{count_text(n, 'particles') if n else 'The particles'} were refined in two half sets,"
        " independently of each other, by maximum likelihood"
        f"{step.text(' with {} symmetry', 'symmetry')}"
        f"{local}{step.text(', to {} by their Fourier shell correlation', 'resolution_angst')}."
    )


def _postprocess(step: MethodStep) -> str:
    resolution = step.numbers.get("resolution_angst")
    text = "The half maps were masked softly and compared"
    if resolution is not None:
        text += (
            f"; their Fourier shell correlation, corrected for the mask with random phases, falls"
            f" below 0.143 at {quantity_text('resolution_angst', resolution)}"
        )
    b_factor = step.numbers.get("b_factor_angst2")
    if b_factor:
        text += f". The map was sharpened by a B factor of {quantity_text('b_angst2', b_factor)}"
    return f"{text}."


def _fsc(step: MethodStep) -> str:
    at_half = step.numbers.get("fsc_05_angst")
    atoms = step.get("atoms")
    if at_half is None:
        return "The half maps were compared by Fourier shell correlation."
    what = f"the atomic model {str(atoms).rpartition('/')[2]}" if atoms else "the reference map"
    return (
        f"After alignment in three dimensions and in both hands, the Fourier shell correlation"
        f" with {what} falls below 0.5 at {quantity_text('fsc_05_angst', at_half)}."
    )


def _from_atoms(step: MethodStep) -> str:
    atoms = str(step.get("atoms") or step.get("file") or "an atomic model").rpartition("/")[2]
    return f"A map was computed from {atoms}."


def _import_other(step: MethodStep) -> str:
    made = [count_text(count, kind) for kind, count in step.items_out.values()]
    return f"{', '.join(made) or 'Data'} were imported."


def _in_general(step: MethodStep) -> str:
    """Say what a protocol that is not known here was given and gave."""
    given = [
        f"{title_of(name).lower()} {quantity_text(name, value)}"
        for name, value in step.changed.items()
        if not isinstance(value, str | list | dict) and value is not None
    ]
    made = [count_text(count, kind) for kind, count in step.items_out.values()]
    how = f" with {', '.join(given)}" if given else ""
    what = f", giving {', '.join(made)}" if made else ""
    return f"The step “{value_text(step.label)}” ({step.protocol}) was run{how}{what}."


_SENTENCES: dict[str, Callable[[MethodStep], str]] = {
    "micrographs.import": _import_micrographs,
    "micrographs.simulate": _simulate,
    "particles.simulate": _simulate,
    "micrographs.estimate_ctf": _estimate_ctf,
    "ctf.consensus": _ctf_consensus,
    "micrographs.pick_log": _pick_log,
    "micrographs.pick_network": _pick_network,
    "micrographs.train_picker": _train_picker,
    "coordinates.import": _import_other,
    "particles.import": _import_other,
    "volumes.import": _import_other,
    "masks.import": _import_other,
    "particles.extract": _extract,
    "particles.classify_2d": _classify_2d,
    "classes2d.select": _select_classes,
    "particles.initial_volume": _initial_volume,
    "particles.refine_3d": _refine_3d,
    "volumes.postprocess": _postprocess,
    "volumes.fsc": _fsc,
    "volumes.from_atoms": _from_atoms,
    **CLASSES3D_SENTENCES,
    **MOTION_SENTENCES,
    **MOVIE_SENTENCES,
    **PICKING_SENTENCES,
    **SET_SENTENCES,
}
