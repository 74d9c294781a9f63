"""Writing a project as a page: any state of the work, nothing from outside."""

from html.parser import HTMLParser

import pytest

from verglas.api.report import write_report
from verglas.core.errors import VerglasError


class Links(HTMLParser):
    """Collect everything that would be loaded, and the anchors."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.anchors, self.targets = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loaded += [values[name] for name in ("src", "srcset", "data") if values.get(name)]
        if tag == "link":
            self.loaded.append(values.get("href"))
        if tag == "a" and (values.get("href") or "").startswith("#"):
            self.anchors.append(values["href"][1:])
        if "id" in values:
            self.targets.add(values["id"])


def written(project, path, **options):
    return write_report(project, path, **options).read_text("utf-8")


def test_folder_gets_a_page_of_the_usual_name(project, tmp_path):
    assert write_report(project, tmp_path / "out") == tmp_path / "out" / "report.html"


def test_empty_project_has_a_page(project, tmp_path):
    assert "no jobs yet" in written(project, tmp_path / "r.html")


def test_page_needs_nothing_from_outside(project, tmp_path):
    project.run("numbers.make_range", count=4)
    links = Links(written(project, tmp_path / "r.html"))
    assert [link for link in links.loaded if not link.startswith("data:")] == []
    assert set(links.anchors) <= links.targets


def test_changed_parameters_come_before_the_others(project, tmp_path):
    project.run("numbers.make_range", count=4)
    page = written(project, tmp_path / "r.html")
    assert (
        page.index(">Count<")
        < page.index("1 parameter left at the default")
        < page.index(">Start<")
    )


def test_failed_job_is_shown_with_its_error(project, tmp_path):
    project.run("numbers.make_range", count=4)
    with pytest.raises(VerglasError):
        project.run("numbers.raise_power", numbers="d1", bad=[2])
    page = written(project, tmp_path / "r.html")
    assert "Failed." in page
    assert 'class="status failed"' in page


def test_chosen_jobs_only_are_shown(project, tmp_path):
    project.run("numbers.make_range", count=4)
    project.run("numbers.raise_power", numbers="d1")
    page = written(project, tmp_path / "r.html", jobs=["j2"])
    assert ('id="j1"' in page, 'id="j2"' in page) == (False, True)


def test_texts_are_escaped(project, tmp_path):
    project.run("numbers.make_range", count=4, label="<script>x</script>")
    assert "<script>" not in written(project, tmp_path / "r.html")
