from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from endcap.loop.training.model_files.pickles import find_pickle

THING = {"weights": [1.0, 2.0], "name": "net", "inner": ({"a": 1},)}


class Evil:
    """What would run when it is opened; it never is."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was opened')",)


def pack(**files: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, payload in files.items():
            archive.writestr(name, payload)
    return sink.getvalue()


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO(b""))
    return sink.getvalue()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("thing", [THING, [1], Evil(), 3.5, None, "text"], ids=["dict", "list", "evil", "number", "none", "text"])
def test_a_pickle_is_found_by_its_bytes_in_every_protocol(protocol: int, thing: object) -> None:
    payload = pickle.dumps(thing, protocol=protocol)
    assert find_pickle("model.txt", payload) is not None
    assert find_pickle("model.txt", pack(inner=payload)) is not None
    assert find_pickle("model.txt", payload + b"\n") is not None


@pytest.mark.parametrize("protocol", range(6))
def test_what_follows_a_pickle_does_not_hide_it(protocol: int) -> None:
    for tail in (b"tree\nversion=v4\n", b"\0" * 100, pack(a=b"x")):
        assert find_pickle("model.lgb", pickle.dumps(Evil(), protocol=protocol) + tail) is not None


def test_a_pickle_longer_than_is_looked_at_is_found() -> None:
    assert find_pickle("model.txt", pickle.dumps(list(range(400_000)), protocol=0)) is not None


@pytest.mark.parametrize("name", ["model.pkl", "MODEL.PKL", "a/b/scaler.joblib", "net.pt", "net.pth", "x.pickle", "x.pkl.txt", "x.dill"])
def test_a_name_that_only_pickles_have_is_enough(name: str) -> None:
    why = find_pickle(name, b"harmless")
    assert why is not None
    assert "its name ends in" in why


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (gzip.compress(b"x", mtime=0), "packed with gzip"),
        (tar(), "tar archive"),
        (pack(a=pack(b=b"x")), "archive in an archive"),
        (b"junk before the archive" + pack(**{"data.pkl": b"x"}), "'data.pkl'"),
        (b"PK\x03\x04" + b"\0" * 100, "cannot be looked into"),
    ],
)
def test_what_hides_a_pickle_is_told_too(payload: bytes, match: str) -> None:
    assert match in str(find_pickle("weights.bin", payload))


def save(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=True)
    return sink.getvalue()


def test_arrays_of_objects_are_pickles_and_others_are_not() -> None:
    assert find_pickle("a.npy", save(np.array([None]))) == "its array holds objects"
    assert find_pickle("a.npy", save(np.array([(1, None)], dtype=[("a", int), ("b", object)]))) == "its array holds objects"
    assert find_pickle("a.npy", save(np.arange(3))) is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"tree\nversion=v4\n",
        b"channels:\n- conda-forge\n",
        b"N. B. read this",
        b"(a sentence.)",
        b"I.",
        b"numpy==2.4.6\n",
        b'{"a": [1]}',
        b"# notes.",
        b"[[1.0, 2.0]]",
        b"\x08\x08:",
    ],
)
def test_plain_files_are_no_pickles(payload: bytes) -> None:
    assert find_pickle("notes.txt", payload) is None
