import json

import pytest

from cwm.data.files import human, write_json


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (19_400_000_000, "19.4 GB"),
        (2.5e12, "2.5 TB"),
        (4e15, "4000.0 TB"),
    ],
)
def test_sizes_are_said_as_people_say_them(size, text):
    assert human(size) == text


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
