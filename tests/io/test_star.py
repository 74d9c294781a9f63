import gzip
import math
import time

import polars as pl
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from verglas.core.errors import FormatError
from verglas.io import star
from verglas.io.star import read_star, write_star

from .samples import RELION_31


def _read(tmp_path, text, name="a.star"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_star(tmp_path / name)


@pytest.fixture(params=["careful", "compiled"])
def both_paths(request, monkeypatch):
    """Run a test with small tables sent through the compiled pass, too."""
    monkeypatch.setattr(star, "_LARGE_BYTES", -1 if request.param == "compiled" else 1 << 30)


@pytest.mark.usefixtures("both_paths")
def test_relion_tables_are_read_with_their_types(tmp_path):
    blocks = _read(tmp_path, RELION_31)
    assert list(blocks) == ["optics", "particles"]
    assert blocks["optics"].row(0) == (1, "opticsGroup1", 300.0)
    expected = pl.DataFrame(
        {
            "rlnImageName": ["000001@a.mrcs", "000002@a.mrcs"],
            "rlnMicrographName": ["0001", "0002"],
            "rlnDefocusU": [15301.1, 15303.0],
            "rlnClassNumber": [1, 2],
        }
    )
    assert_frame_equal(blocks["particles"], expected)


def test_single_values_are_a_table_of_one_row(tmp_path):
    text = 'data_job\n\n_rlnJobTypeLabel  relion.class2d \n_rlnX "" \n_rlnN 3 # comment\n_rlnE\n'
    blocks = _read(tmp_path, text)
    assert blocks["job"].row(0) == ("relion.class2d", "", 3, "")


def test_quotes_and_comments_are_understood(tmp_path):
    text = (
        "# first\ndata_a # here\nloop_\n_b #1\n_c\n"
        '"two words" \'say "hi"\' # why\n# whole line\n'
        'it\'s ""\n"5" x#y\n'
    )
    blocks = _read(tmp_path, text)
    assert blocks["a"]["b"].to_list() == ["two words", "it's", "5"]
    assert blocks["a"]["c"].to_list() == ['say "hi"', "", "x#y"]


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["1", "-2", "0"], pl.Int64),
        (["1", "2.5"], pl.Float64),
        (["+1", "2"], pl.Float64),
        (["-0", "2"], pl.Float64),
        (["1e-5", ".5", "5.", "nan", "-inf"], pl.Float64),
        (["007", "008"], pl.String),
        (["1.5", "007"], pl.String),
        (["12345678901234567890"], pl.String),
        (["1", "a"], pl.String),
        (["1e", "2"], pl.String),
        (["-", "2"], pl.String),
        ([".", "2"], pl.String),
        (["[0,1]", "[1,1]"], pl.String),
        (["data_1/a.mrc", "$x", ";y", "Å/β.mrc"], pl.String),
    ],
)
def test_types_come_from_all_values(tmp_path, values, dtype):
    rows = "".join(f"{value}   z \n" for value in values)
    table = _read(tmp_path, f"data_\nloop_\n_a\n_z\n{rows}")[""]
    assert table.schema["a"] == dtype
    if dtype == pl.String:
        assert table["a"].to_list() == values
    else:
        read, expected = table["a"].to_list(), [float(value) for value in values]
        pairs = zip(read, expected, strict=True)
        assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)


@pytest.mark.usefixtures("both_paths")
def test_empty_loop_is_an_empty_table(tmp_path):
    blocks = _read(tmp_path, "data_a\n\nloop_\n_x\n_y\n\ndata_b\n_z 1\n")
    assert blocks["a"].shape == (0, 2)
    assert blocks["b"].shape == (1, 1)


@pytest.mark.usefixtures("both_paths")
def test_windows_line_ends_and_tabs_are_spaces(tmp_path):
    table = _read(tmp_path, "data_a\r\nloop_\r\n_x\r\n_y\r\n1\t2\r\n 3 4\r\n")["a"]
    assert table.rows() == [(1, 2), (3, 4)]


@pytest.mark.usefixtures("both_paths")
def test_last_line_needs_no_end(tmp_path):
    assert _read(tmp_path, "data_a\nloop_\n_x\n1\n2")["a"]["x"].to_list() == [1, 2]


def test_compressed_files_are_looked_through(tmp_path):
    (tmp_path / "a.star.gz").write_bytes(gzip.compress(RELION_31.encode()))
    assert list(read_star(tmp_path / "a.star.gz")) == ["optics", "particles"]


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("some text\n", r"expected a line that begins with data_, got 'some text' \(line 1\)"),
        ("# only a comment\n", "no line begins with data_"),
        ("data_a\nloop_\n_x\n_y\n1 2\n3\n", r"a row has 1 values, expected 2 \(line 6\)"),
        ("data_a\nloop_\n_x\n_y\n1 2\n3 4 5\n", r"a row has 3 values, expected 2 \(line 6\)"),
        ("data_a\nloop_\n1 2\n", "loop_ is followed by no label"),
        ("data_a\nloop_\n_x\n_x\n1 2\n", "label _x appears twice"),
        ("data_a\n_x 1\n_x 2\n", "label _x appears twice"),
        ("data_a\n_x 1\ndata_a\n_x 2\n", "block data_a appears twice"),
        ("data_a\n_x 1 2\n", "expected a label and a value, got 3"),
        ("data_a\nloop_\n_x\n_y\n1 'open\n", r"quotation mark has no partner \(line 5\)"),
        ("data_a\n_x 1\nloop_\n_y\n1\n", "single values and a loop"),
    ],
)
def test_improper_files_are_explained(tmp_path, text, message):
    with pytest.raises(FormatError, match=message):
        _read(tmp_path, text)


@pytest.mark.usefixtures("both_paths")
def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.star").write_bytes(b"data_a\nloop_\n_x\n_y\n1 \xff\n")
    with pytest.raises(FormatError, match="utf-8"):
        read_star(tmp_path / "a.star")


def test_missing_and_empty_files_are_explained(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        read_star(tmp_path / "none.star")
    (tmp_path / "a.star").touch()
    with pytest.raises(FormatError, match="is empty, expected a STAR file"):
        read_star(tmp_path / "a.star")


_text = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters="'"),
    max_size=12,
).filter(lambda text: not any(c.isdecimal() for c in text) and text.lower() not in ("nan", "inf"))
_columns = st.one_of(
    st.lists(st.integers(-(10**17), 10**17), min_size=3, max_size=3),
    st.lists(st.floats(allow_nan=False), min_size=3, max_size=3),
    st.lists(_text, min_size=3, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), _columns, min_size=1))
def test_tables_survive_a_round_trip(tmp_path_factory, columns):
    table = pl.DataFrame(columns)
    path = tmp_path_factory.mktemp("star") / "a.star"
    write_star(path, {"a": table})
    assert_frame_equal(read_star(path)["a"], table, check_exact=True)


_soup = st.text(st.sampled_from("019.-+eE_an if'\"#\t\n@/"), max_size=60)


@settings(max_examples=300, deadline=None)
@given(_soup)
def test_compiled_and_careful_readers_agree(tmp_path_factory, body):
    path = tmp_path_factory.mktemp("star") / "a.star"
    path.write_text(f"data_\nloop_\n_x\n_y\n{body}\n")
    results = []
    for limit in (1 << 30, -1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(star, "_LARGE_BYTES", limit)
            try:
                results.append(read_star(path))
            except FormatError as error:
                results.append(str(error))
    if isinstance(results[0], str):
        assert results[0] == results[1]
    else:
        assert_frame_equal(results[0][""], results[1][""], check_exact=True)


def test_written_files_are_read_alike_by_starfile(tmp_path):
    table = pl.DataFrame(
        {
            "rlnImageName": ["000001@a b.mrcs", "000002@a b.mrcs"],
            "rlnAngleRot": [12.25, -1e-7],
            "rlnClassNumber": [1, 2],
        }
    )
    write_star(tmp_path / "a.star", {"optics": {"rlnVoltage": 300.0}, "particles": table})
    back = starfile.read(tmp_path / "a.star", always_dict=True)
    assert back["optics"]["rlnVoltage"] == 300.0
    for name in table.columns:
        assert back["particles"][name].tolist() == table[name].to_list()


def test_mappings_become_lists_of_values(tmp_path):
    write_star(tmp_path / "a.star", {"job": {"label": "a b", "n": 3, "x": 0.5}}, version=30001)
    assert (tmp_path / "a.star").read_text() == (
        '\n# version 30001\n\ndata_job\n\n_label "a b"\n_n 3\n_x 0.5\n\n'
    )
    assert read_star(tmp_path / "a.star")["job"].row(0) == ("a b", 3, 0.5)


def test_empty_values_are_written_as_relion_does(tmp_path):
    table = pl.DataFrame({"a": [None, "b"], "b": [None, 1.5]})
    write_star(tmp_path / "a.star", {"": table})
    back = read_star(tmp_path / "a.star")[""]
    assert back["a"].to_list() == ["None", "b"]
    assert math.isnan(back["b"][0])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pl.DataFrame({"a": [None, 1]}), "empty integer values"),
        (pl.DataFrame({"a": ["x\ny"]}), "text that STAR cannot"),
        (pl.DataFrame({"a": ["both ' and \" marks"]}), "text that STAR cannot"),
        (pl.DataFrame({"a b": [1]}), "label must not be empty"),
    ],
)
def test_writer_refuses_what_star_cannot_hold(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        write_star(tmp_path / "a.star", {"x": table})
    assert list(tmp_path.iterdir()) == []


def test_lists_in_columns_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"column 'a' cannot be written to STAR: List"):
        write_star(tmp_path / "a.star", {"x": pl.DataFrame({"a": [[1.0]]})})


@pytest.mark.slow
def test_million_rows_take_seconds(tmp_path):
    n = 1_000_000
    table = pl.DataFrame(
        {"rlnImageName": pl.Series([f"{i:06d}@Extract/job012/mic.mrcs" for i in range(n)])}
        | {f"rlnX{k}": pl.int_range(n, eager=True) * 0.123456 for k in range(25)}
        | {f"rlnN{k}": pl.int_range(n, eager=True) for k in range(4)}
    )
    start = time.perf_counter()
    write_star(tmp_path / "a.star", {"particles": table})
    written = time.perf_counter()
    back = read_star(tmp_path / "a.star")["particles"]
    read = time.perf_counter()
    assert_frame_equal(back, table, check_exact=True)
    assert written - start < 10  # measured 2 s; 2 shared cores
    assert read - written < 20  # measured 4 s


@pytest.mark.data
def test_real_files_are_read_as_starfile_does(shared_data, tmp_path, monkeypatch):
    paths = sorted(shared_data.rglob("*.star*"))
    assert len(paths) > 40
    for path in paths:
        blocks = read_star(path)
        with monkeypatch.context() as patch:
            patch.setattr(star, "_LARGE_BYTES", -1)
            for name, table in read_star(path).items():
                assert_frame_equal(table, blocks[name], check_exact=True)
        plain = path
        if path.suffix == ".gz":
            plain = tmp_path / "a.star"
            plain.write_bytes(gzip.decompress(path.read_bytes()))
        oracle = starfile.read(plain, always_dict=True)
        assert list(oracle) == list(blocks)
        for name, table in blocks.items():
            for label in table.columns:
                column = oracle[name][label]
                values = [column] if isinstance(oracle[name], dict) else column.tolist()
                assert [str(v) for v in values] == [str(v) for v in table[label].to_list()] or (
                    values == table[label].to_list()
                ), (path.name, name, label)


@pytest.mark.data
def test_real_files_survive_a_round_trip(shared_data, tmp_path):
    for path in sorted(shared_data.rglob("*.star*")):
        blocks = read_star(path)
        write_star(tmp_path / "a.star", blocks)
        back = read_star(tmp_path / "a.star")
        for name, table in blocks.items():
            assert_frame_equal(back[name], table, check_exact=True)
