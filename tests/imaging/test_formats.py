"""The table of accepted formats."""

import pytest
from PIL import Image

from app.errors import UnsupportedImage
from app.imaging.formats import FORMATS, SUFFIXES, format_of, titles
from testing.pictures import encoded, gradient


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_of_the_format_that_its_first_bytes_say(name: str) -> None:
    assert format_of(encoded(gradient(16, 16), name)) is FORMATS[name]


def test_names_media_types_and_suffixes_are_those_of_pillow() -> None:
    known = Image.registered_extensions()
    for entry in FORMATS.values():
        assert Image.MIME[entry.name] == entry.media_type
        assert {known[suffix] for suffix in entry.suffixes} == {entry.name}
        assert entry.title.upper() == entry.name
    assert len(SUFFIXES) == sum(len(entry.suffixes) for entry in FORMATS.values())


def test_each_row_has_the_plugin_that_opens_its_files() -> None:
    for entry in FORMATS.values():
        opener, _ = Image.OPEN[entry.name]
        assert opener.__module__ in {plugin.__name__ for plugin in entry.plugins}


def test_what_has_no_format_is_refused_with_all_names() -> None:
    with pytest.raises(UnsupportedImage) as caught:
        format_of(b"no picture")
    assert caught.value.detail == {"field": "image", "expected": ", ".join(FORMATS)}
    assert (caught.value.code, caught.value.status) == ("unsupported_media_type", 415)


def test_the_titles_read_as_a_list() -> None:
    assert titles().startswith("JPEG, PNG, WebP, ")
    assert titles().count(" or ") == 1
