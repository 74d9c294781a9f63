"""Writing a project as a page: any state of the work, nothing from outside."""

import re
import shutil
from html.parser import HTMLParser

import pytest

from tests.api import picture_protocols
from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
from verglas.api.report import write_report
from verglas.core.errors import VerglasError
from verglas.core.registry import scan_package
from verglas.engine.placement import Placement
from verglas.project.record import JobStatus


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


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """A project with micrographs, picks and a map; tests only read it, or copy it."""
    registry = number_registry()
    registry.add(picture_protocols)
    scan_package(registry, "verglas.viewers")
    root = tmp_path_factory.mktemp("pictured") / "ferritin"
    with Project.create(root, registry=registry, placement=Placement("in_process")) as project:
        fitted = project.run("micrographs.fit_all")
        project.run("micrographs.pick_some", micrographs=f"{fitted.id}.micrographs")
        project.run("volumes.make_ball", symmetry="O")
        yield project


@pytest.fixture
def copied(pictured, tmp_path):
    shutil.copytree(pictured.root, tmp_path / "copy")
    with Project.open(tmp_path / "copy", registry=pictured.registry) as project:
        yield project


@pytest.fixture(scope="module")
def page(pictured, tmp_path_factory):
    return write_report(pictured, tmp_path_factory.mktemp("page") / "r.html")


def test_pictures_are_in_the_page_and_beside_it(page):
    text = page.read_text("utf-8")
    names = {path.name for path in (page.parent / "r_pictures").iterdir()}
    assert {"j1-micrographs-ctf-1.png", "j2-coordinates-picks-1-1.png"} <= names
    assert {"j3-volumes-map-1-1.png", "j3-curves-lines-1-1.png", "j3-portrait.png"} <= names
    assert text.count("<figure") == len(names) - 1  # all but the portrait
    assert "No picture of" not in text


def test_page_with_pictures_needs_nothing_from_outside(page):
    text = page.read_text("utf-8")
    links = Links(text)
    assert all(link.startswith("data:image/") for link in links.loaded)
    assert set(links.anchors) <= links.targets
    assert re.findall(r"url\((?!#)[^)]*\)|@import|<script", text) == []


def test_ids_are_used_once(page):
    ids = re.findall(r'\bid="([^"]+)"', page.read_text("utf-8"))
    assert len(ids) == len(set(ids))


def test_every_picture_has_words_for_those_who_cannot_see_it(page):
    text = page.read_text("utf-8")
    assert all('alt="' in tag and 'alt=""' not in tag for tag in re.findall(r"<img[^>]*>", text))
    assert all("aria-label" in tag for tag in re.findall(r"<svg[^>]*>", text))


def test_page_begins_with_what_people_look_for(page):
    text = page.read_text("utf-8")
    top = text[: text.index("<main")]
    assert "<dt>Resolution</dt><dd>6.00 Å" in top
    assert "<dt>Symmetry</dt><dd>O" in top
    assert "<dt>Micrographs</dt><dd>1<small>of 3" in top or "<dt>Micrographs</dt><dd>1" in top


def test_steps_show_items_warnings_numbers_and_methods(page):
    text = page.read_text("utf-8")
    assert re.search(r'class="out">2 micrographs <small>rejected', text)
    assert "<b>Warning:</b> one looks odd" in text
    assert "<dt>Accepted</dt><dd>1</dd>" in text
    assert '<a href="https://doi.org/10.1000/x">' in text


def test_progress_is_told_for_each_job(pictured, tmp_path):
    told = []
    write_report(pictured, tmp_path / "r.html", jobs=["j2"], show=told.append)
    assert [(update.job, update.done, update.total) for update in told] == [("j2", 0, 1)]


def test_lost_images_are_named(copied, tmp_path):
    (copied.job("j3").folder / "files" / "v.mrc").unlink()
    text = written(copied, tmp_path / "r.html", jobs=["j3"])
    assert "No picture of volume of volumes" in text
    assert "v.mrc" in text


def test_lost_tables_and_deleted_jobs_do_not_stop_the_page(copied, tmp_path):
    shutil.rmtree(copied.job("j1").folder / "outputs")
    copied.delete("j3")
    text = written(copied, tmp_path / "r.html", jobs=["j1", "j2", "j3"])
    assert text.count("No picture of") >= 2
    assert "Pick some" in text


@pytest.mark.parametrize("status", [s for s in JobStatus if s is not JobStatus.DONE])
def test_jobs_in_any_state_are_shown(copied, tmp_path, status):
    with copied.store.writing():
        copied.store.save(copied.job("j3").record.replace(status=status, outputs=()))
        text = written(copied, tmp_path / "r.html", jobs=["j3"])
    assert f'class="status {status}"' in text


def test_job_of_a_protocol_that_is_gone_is_shown(pictured, tmp_path):
    with Project.open(pictured.root, registry=number_registry()) as project:
        text = written(project, tmp_path / "r.html", jobs=["j3"])
    assert "This protocol is not installed." in text
    assert "volumes.make_ball" in text


def test_out_of_date_jobs_are_marked(project, tmp_path):
    project.run("numbers.make_range", count=4)
    project.run("numbers.raise_power", numbers="d1")
    project.rerun("j1", count=5)
    text = written(project, tmp_path / "r.html")
    assert "j2 out of date" in text
    assert "count 4 -&gt; 5" in text


def test_pictures_of_an_earlier_page_go_and_other_files_stay(pictured, tmp_path):
    folder = tmp_path / "r_pictures"
    folder.mkdir()
    (folder / "j99-old-1.png").touch()
    (folder / "mine.png").touch()
    write_report(pictured, tmp_path / "r.html", jobs=["j2"])
    names = {path.name for path in folder.iterdir()}
    assert "j99-old-1.png" not in names
    assert "mine.png" in names
