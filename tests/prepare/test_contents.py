"""Files are known by what they hold."""

import hashlib
import os

import pytest

from universal_neurons.errors import UserError
from universal_neurons.prepare.contents import digests


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for path in paths:
        path.write_text(path.name)
    return list(map(str, paths))


def truth(files):
    return [hashlib.sha256(open(file, "rb").read()).hexdigest() for file in files]


def test_digests_are_of_what_the_files_hold_whatever_their_times(tmp_path, files):
    known = tmp_path / "folder/known.json"
    assert digests(files, known) == truth(files)
    os.utime(files[0], (1, 1))
    assert digests(files, known) == truth(files)
    with open(files[0], "a") as file:
        file.write("more")
    assert digests(files, known) == truth(files)
    assert digests(files[::-1], known) == truth(files)[::-1]


def test_a_file_is_read_once_as_long_as_size_and_time_stay(tmp_path, files):
    known = tmp_path / "known.json"
    before = digests(files, known)
    time = os.stat(files[0]).st_mtime_ns
    with open(files[0], "w") as file:
        file.write("eno.txt")
    os.utime(files[0], ns=(time, time))
    assert digests(files, known) == before
    os.utime(files[0])
    assert digests(files, known) == truth(files)


@pytest.mark.parametrize("damage", ["", "null", "[1", '{"a": 1}'])
def test_known_digests_that_are_damaged_are_taken_anew(tmp_path, files, damage):
    known = tmp_path / "known.json"
    known.write_text(damage)
    assert digests(files, known) == truth(files)
    assert digests(files, known) == truth(files)


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError, match=r"corpus.path: .*gone.txt"):
        digests([str(tmp_path / "gone.txt")], tmp_path / "known.json")
