"""Pictures stand alone, and PNG has the text of the SVG in it."""

import importlib.util
import struct
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from nmt import errors
from nmt.evaluation import documents, pictures, svg

CHART = documents.Chart("Loss & more", "updates", {"a": [(1, 2.0), (9, 1.0)], "b": [(1, 3.0)]})
MAP = documents.HeatMap("run, line 3", ["x", "<y>"], ["z"], [[0.2, 0.8]])


@pytest.mark.parametrize("content", [CHART, MAP])
def test_an_svg_is_a_file_of_its_own_with_its_style_on_white(content):
    text = pictures.to_svg(content)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    style, back, *_ = list(root)
    assert ".curve {" in style.text and "text {" in style.text
    assert (back.tag.split("}")[1], back.get("fill")) == ("rect", "#fff")
    assert content.title in {node.text for node in root.iter()}


def test_a_curve_looks_the_same_in_each_chart_and_has_a_name_beside_others():
    whole = pictures.to_svg(documents.Chart("x", "updates", {"a": [(1, 1)], "b": [(1, 2)]}))
    partly = pictures.to_svg(documents.Chart("x", "updates", {"a": [], "b": [(1, 2)]}))
    style = svg.COLOURS[1]
    assert style in whole and style in partly and svg.COLOURS[0] not in partly
    assert ">b</text>" in partly and ">a</text>" not in partly
    assert ">b</text>" not in pictures.to_svg(documents.Chart("x", "updates", {"b": [(1, 2)]}))


@pytest.mark.parametrize("text", ["caf\udce9", "a\x07b", "\ufffe", "x\x00"])
def test_text_that_no_picture_can_have_is_replaced(text):
    for content in (
        documents.Chart(text, "updates", {text: [(1, 2.0)], "b": [(1, 3.0)]}),
        documents.HeatMap("run", [text, "y"], [text], [[0.2, 0.8]]),
    ):
        picture = pictures.to_svg(content)
        assert "\ufffd" in "".join(ElementTree.fromstring(picture.encode()).itertext())
        if importlib.util.find_spec("resvg_py"):
            assert pictures.to_png(picture).startswith(b"\x89PNG")


def test_a_png_is_that_picture_three_times_as_large():
    pytest.importorskip("resvg_py")
    pictures.check_png()
    text = pictures.to_svg(CHART)
    found = pictures.to_png(text)
    width, height = struct.unpack(">II", found[16:24])
    root = ElementTree.fromstring(text)
    assert (width, height) == (3 * int(root.get("width")), 3 * int(root.get("height")))
    assert pictures.to_png(text.replace("updates", "ups")) != found, "there is text in it"
    assert pictures.to_png(text.replace("#0072B2", "#ffffff")) != found


def test_without_package_or_font_it_is_one_line(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "resvg_py", None)
        with pytest.raises(errors.UsageError, match=r"--format png: needs a package.*\[plot\]"):
            pictures.check_png()
    resvg_py = pytest.importorskip("resvg_py")
    usual = resvg_py.svg_to_bytes
    monkeypatch.setattr(
        resvg_py, "svg_to_bytes", lambda **options: usual(skip_system_fonts=True, **options)
    )
    with pytest.raises(errors.UsageError, match="there is no font on this machine"):
        pictures.check_png()


def test_titles_become_names_of_files():
    assert pictures.file_name("Peak memory, MiB") == "peak-memory-mib"
    assert pictures.file_name("a/b, line 3") == "a-b-line-3"
    assert pictures.file_name("...") == "picture"
