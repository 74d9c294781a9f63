import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from verglas.core import registry as registry_module
from verglas.core.errors import UserError
from verglas.core.registry import (
    Broken,
    Registry,
    find_protocol,
    load_registry,
    scan_package,
)

PROTOCOL = '''"""Count the items."""
from verglas.model import MICROGRAPHS, DataSet
from verglas.sdk import Context, Params, Ports, port, protocol

class P(Params):
    """None."""

class Inputs(Ports):
    """Micrographs."""
    micrographs: DataSet = port(MICROGRAPHS)

@protocol("{id}", version=1, label="Count")
def run(ctx: Context, params: P, inputs: Inputs) -> Inputs:
    return inputs
'''


@pytest.fixture
def make_package(tmp_path, monkeypatch):
    """Write packages that can be imported for the length of a test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def make(name, **files):
        made.append(name)
        for path, text in {"__init__": "", **files}.items():
            file = tmp_path / name / f"{path.replace('__in__', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            for folder in file.relative_to(tmp_path).parents:
                if folder.name:
                    (tmp_path / folder / "__init__.py").touch()
        return name

    yield make
    for module in [m for m in sys.modules if m.partition(".")[0] in made]:
        del sys.modules[module]


def install(monkeypatch, *packages):
    entries = [EntryPoint(name, name, "verglas.plugins") for name in packages]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: entries)


def test_protocols_are_found_in_subfolders(make_package):
    package = make_package("found", deep__in__count=PROTOCOL.format(id="items.count_all"))
    registry = Registry()
    scan_package(registry, package)
    assert list(registry.protocols) == ["items.count_all"]
    assert registry.protocol("items.count_all").summary == "Count the items."


def test_plugin_is_found_by_its_entry_point(make_package, monkeypatch):
    install(monkeypatch, make_package("plug", protocols__in__a=PROTOCOL.format(id="plug.count_a")))
    assert load_registry().protocols["plug.count_a"].module == "plug.protocols.a"


def test_broken_plugin_is_listed_and_the_rest_works(make_package, monkeypatch):
    bad = make_package("bad", protocols__in__a="import no_such_package")
    worse = make_package("worse", __init__="raise RuntimeError('no licence')")
    good = make_package("good", protocols__in__a=PROTOCOL.format(id="good.count_a"))
    install(monkeypatch, bad, worse, good)
    registry = load_registry()
    assert "good.count_a" in registry.protocols
    broken = [item for item in registry.broken if not item.name.startswith("verglas")]
    assert Broken("worse", "RuntimeError: no licence") in broken
    assert [item.name for item in broken] == ["bad.protocols.a", "worse"]


def test_equal_ids_are_an_error(make_package):
    text = PROTOCOL.format(id="items.count_all")
    package = make_package("twice", a=text, b=text)
    with pytest.raises(UserError, match=r"'items.count_all' is defined twice: by 'twice.a'"):
        scan_package(Registry(), package)


def test_importing_a_protocol_elsewhere_does_not_define_it_twice(make_package):
    text = PROTOCOL.format(id="items.count_all")
    package = make_package("again", a=text, b="from again.a import run")
    registry = Registry()
    scan_package(registry, package)
    assert list(registry.protocols) == ["items.count_all"]


def test_unknown_protocol_gets_the_nearest_name(make_package):
    registry = Registry()
    scan_package(registry, make_package("near", a=PROTOCOL.format(id="items.count_all")))
    with pytest.raises(UserError, match=r"did you mean items.count_all\?"):
        registry.protocol("items.countall")
    with pytest.raises(UserError, match="see `verglas protocols`"):
        registry.protocol("zzz")


def test_package_that_does_not_exist_adds_nothing():
    registry = Registry()
    scan_package(registry, "no_such_package_at_all")
    assert registry == Registry()


def test_built_ins_are_found_without_plugins(monkeypatch):
    install(monkeypatch)
    assert load_registry().broken == []


def test_one_protocol_is_found_without_the_others():
    code = (
        "import sys\n"
        "from verglas.core.registry import find_protocol\n"
        "assert find_protocol('movies.import').id == 'movies.import'\n"
        "assert find_protocol('particles.reconstruct').id == 'particles.reconstruct'\n"
        "found = [m for m in sys.modules if m.startswith('verglas.protocols.')]\n"
        "assert 'verglas.protocols.refine3d.refine_3d' not in found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_built_in_protocol_is_in_the_module_that_its_id_names():
    for name, spec in load_registry().protocols.items():
        stem = spec.module.rpartition(".")[2]
        assert stem in (name.partition(".")[2], name.replace(".", "_")), name


def test_one_protocol_of_a_plugin_is_found(make_package, monkeypatch):
    install(monkeypatch, make_package("own", protocols__in__a=PROTOCOL.format(id="own.count_a")))
    assert find_protocol("own.count_a").module == "own.protocols.a"
    with pytest.raises(UserError, match="unknown protocol"):
        find_protocol("own.count_b")
