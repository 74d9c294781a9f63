"""Commands that look at a project: jobs, show, log, graph, protocols, schema."""

import pytest

from verglas.cli.show import _print_rows


@pytest.fixture
def chain(make, toy):
    """Three jobs, the second of which gives two data sets to the third."""
    make("numbers.make_row", "--count", "4", "--step-angst", "2")
    make("numbers.change_all", "-i", "d1", "--above", "10", "--job-label", "squares")
    make("numbers.change_all", "-i", "numbers=d2", "-i", "more=d1")
    return toy


def test_jobs_are_listed(chain):
    lines = chain("jobs").out.splitlines()
    assert lines[0].split() == [
        "job",
        "protocol",
        "label",
        "status",
        "made",
        "key",
        "number",
        "time",
    ]
    assert "squares" in lines[2]
    assert "2 numbers, 2 rest" in lines[2]
    assert [job["id"] for job in chain("jobs", "--json").json] == ["j1", "j2", "j3"]
    assert chain("jobs", "--status", "failed", "--json").json == []


def test_job_is_shown_with_links_numbers_and_parameters(chain):
    text = chain("show", "j2").out
    assert "numbers.change_all version 1" in text
    assert "in " in text
    assert "d1" in text
    assert "largest" in text
    assert any(line.split() == ["above", "10", "changed"] for line in text.splitlines())
    answer = chain("show", "j2", "--json").json
    assert answer["steps"][0]["total"] == 2
    assert "python" in answer["environment"]


@pytest.mark.parametrize("ref", ["d2", "j2.numbers"])
def test_data_set_is_shown_with_columns_and_rows(chain, ref):
    text = chain("show", ref).out
    assert "d2: 2 numbers from port 'numbers' of j2" in text
    assert any(line.split()[:4] == ["x_value", "16", "26", "36"] for line in text.splitlines())
    assert "first 2 of 2 rows" in text


def test_rows_of_many_columns_go_down_the_page(cli, capsys):
    wide = {f"column_{i}": 0.5 + i for i in range(12)}
    path = "a/long/way/to/a/file/with/its/name/micrograph_01.mrc"
    rows = [{"item_id": 7, "image_path": path, "profile": [1.0, 2.0], **wide}]
    _print_rows("first", list(rows[0]), rows)
    lines = capsys.readouterr().out.splitlines()
    assert "item 7" in lines[1]
    assert any(line.split() == ["column_11", "11.5"] for line in lines)
    assert any(line.endswith("micrograph_01.mrc") and "…" in line for line in lines)
    assert any(line.split() == ["profile", "2", "values"] for line in lines)
    assert max(map(len, lines)) < 60


def test_rows_can_be_filtered_and_sorted(chain):
    arguments = ["--where", "x_value > 1", "--sort", "x_value", "--descending", "--rows", "2"]
    answer = chain("show", "d1", "--columns", "x_value", "--json", *arguments).json
    assert answer["rows"] == [{"x_value": 6.0}, {"x_value": 4.0}]
    assert answer["n_shown_of"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "j9"], "has no job 'j9'"),
        (["show", "d9"], "has no data set 'd9'"),
        (["show", "d1", "--where", "nonsense"], "not a filter"),
        (["show", "d1", "--sort", "size"], "no column 'size'"),
        (["log", "j9"], "has no job 'j9'"),
    ],
)
def test_what_is_not_there_is_said(chain, arguments, message):
    answer = chain(*arguments)
    assert answer.code == 2
    assert message in answer.err


def test_log_can_be_cut(chain):
    lines = chain("log", "j2").out.splitlines()
    assert "j2: numbers.change_all version 1" in lines[0]
    assert chain("log", "j2", "-n", "2").out.splitlines() == lines[-2:]
    assert chain("log", "j2", "--json").out.startswith("{")


def test_graph_is_a_tree(chain):
    lines = chain("graph").out.splitlines()
    assert [line.lstrip(" └├─│").split()[0] for line in lines] == ["p", "j1", "j2", "j3"]
    assert "also from j1" in lines[3]
    assert lines[3].index("j3") > lines[2].index("j2") > lines[1].index("j1")


def test_graph_as_json_has_edges(chain):
    graph = chain("graph", "--json").json
    edges = {(edge["source"], edge["target"], edge["port"]) for edge in graph["edges"]}
    assert edges == {("j1", "j2", "numbers"), ("j2", "j3", "numbers"), ("j1", "j3", "more")}


def test_index_is_made_anew(chain, tmp_path):
    (tmp_path / "p/project.db").unlink()
    assert chain("reindex").out == "3 jobs\n"
    assert len(chain("jobs", "--json").json) == 3


def test_deleting_asks_first_and_keeps_the_record(chain):
    assert chain("delete", "j3").code != 0
    assert chain("show", "j3", "--json").json["status"] == "done"
    assert chain("delete", "j3", "--yes").code == 0
    assert "done, deleted" in chain("jobs").out
    assert chain("show", "d4").code == 2


def test_protocols_are_listed_with_ports(toy):
    lines = [line for line in toy("protocols", "numbers").out.splitlines() if "change_all" in line]
    assert lines[0].split("  ")[-1] == "numbers, rest (numbers)"
    (described,) = toy("protocols", "change_all", "--json").json
    assert described["inputs"]["more"]["optional"] is True


def test_schema_is_json(toy):
    schema = toy("schema", "numbers.make_row").json
    assert schema["params"]["properties"]["step_angst"]["unit"] == "Å"
    assert schema["outputs"]["numbers"]["kind"] == "numbers"
    assert toy("schema", "numbers.make").code == 2


def test_broken_plugin_is_named_and_the_rest_works(toy, tmp_path, monkeypatch):
    info = tmp_path / "x" / "verglas_broken-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: verglas-broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[verglas.plugins]\nbroken = verglas_broken\n")
    (tmp_path / "x" / "verglas_broken.py").write_text("raise OSError('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "x"))
    answer = toy("protocols", "numbers")
    assert answer.code == 0
    assert "verglas_broken cannot be imported: OSError: no licence" in answer.err


def test_doctor_finds_this_machine_fit(toy):
    answer = toy("doctor", "--quick", "--json")
    assert answer.code == 0
    states = {finding["what"]: finding["state"] for finding in answer.json}
    assert states["python"] == "good"
    assert states["write access"] == "good"
    assert "memory" in toy("doctor", "--quick").out


def test_new_refuses_a_project_that_is_there(toy):
    answer = toy("new", "p")
    assert answer.code == 2
    assert "is a project already" in answer.err


def test_workflow_is_replayed_on_other_data(chain, tmp_path):
    assert "3 steps in flow.json" in chain("graph", "--write-template", "flow.json").out
    chain("new", "other")
    again = ("replay", "flow.json", "--project", "other", "--workers", "0", "--json", "-")
    answer = chain(*again, "--set", "make_row.count=3")
    assert answer.code == 0
    steps = answer.json["steps"]
    assert [step["name"] for step in steps] == ["make_row", "squares", "change_all"]
    assert steps[1]["items_in"] == {"numbers": 3}
    assert all(step["reused"] for step in chain(*again, "--set", "make_row.count=3").json["steps"])


def test_template_of_a_part_needs_its_free_inputs(chain, tmp_path):
    from verglas.api.project import Project

    with Project.open("p") as project:
        project.export_template("part.json", jobs=["j2"])
    answer = chain("replay", "part.json", "--workers", "0")
    assert answer.code == 2
    assert "needs a data set for 'numbers_d1' (numbers)" in answer.err
    given = ("-i", "numbers_d1=d2", "--json", "-")
    assert chain("replay", "part.json", "--workers", "0", *given).json["steps"][0]["items_in"] == {
        "numbers": 2
    }
    assert chain("replay", "part.json", "-i", "numbers_d1").code == 2
