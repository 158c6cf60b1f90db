import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import deva_theory
from deva_theory.runtime import Cache, CacheWarning, cache, source_hash

SOURCES = [Path(__file__)]


class Counted:
    """A computation that counts its calls."""

    def __init__(self, value=1.0):
        self.calls = 0
        self.value = value

    def __call__(self):
        self.calls += 1
        return {
            "loss": np.array([self.value, np.nan, np.inf]),
            "steps": np.arange(3, dtype=np.int32),
            "names": np.array(["a", "ℓ∞"]),
            "odd/name ..": np.zeros((2, 0, 3), dtype=np.float32),
            "scalar": np.float64(0.1),
            "count": 3,
            "flag": True,
            "nothing": None,
            "text": "S∞",
        }


@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.1
    betas: tuple = (0.9, 0.99)
    steps: int = 400


def assert_same(first, second):
    assert list(first) == list(second)
    for key, value in first.items():
        assert type(value) is type(second[key])
        if isinstance(value, np.ndarray):
            assert value.dtype == second[key].dtype
            np.testing.assert_array_equal(value, second[key])
        else:
            assert value == second[key]


def only_file(folder):
    (file,) = folder.iterdir()
    return file


@pytest.fixture
def store(tmp_path):
    return Cache(tmp_path / "deep" / "cache")


def test_second_request_reads_the_file_and_returns_the_same(store):
    compute = Counted()
    first = store.get_or_compute("part", Config(), compute, sources=SOURCES)
    second = Cache(store.folder).get_or_compute("part", Config(), compute, sources=SOURCES)
    assert compute.calls == 1
    assert_same(first, second)
    assert second["scalar"] == 0.1
    assert (store.hits, store.misses) == (0, 1)


def test_equal_configurations_share_an_address(store):
    compute = Counted()
    store.get_or_compute("part", Config(), compute, sources=SOURCES)
    same = {"steps": np.int64(400), "betas": [0.9, np.float64(0.99)], "lr": 0.1}
    store.get_or_compute("part", same, compute, sources=SOURCES)
    assert compute.calls == 1


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("other", Config()),
        ("part", Config(lr=0.2)),
        ("part", Config(betas=(0.99, 0.9))),
        ("part", {}),
    ],
)
def test_another_name_or_configuration_is_computed(store, name, config):
    store.get_or_compute("part", Config(), Counted(), sources=SOURCES)
    compute = Counted()
    store.get_or_compute(name, config, compute, sources=SOURCES)
    assert compute.calls == 1


def test_changed_source_is_computed_again(store, tmp_path):
    source = tmp_path / "code.py"
    compute = Counted()
    for text in ("x = 1\n", "x = 1\n", "x = 2\n"):
        source.write_text(text)
        store.get_or_compute("part", {}, compute, sources=[source])
    assert compute.calls == 2


def test_changed_version_is_computed_again(store, monkeypatch):
    compute = Counted()
    store.get_or_compute("part", {}, compute, sources=SOURCES)
    monkeypatch.setattr(cache, "version", lambda package: "0.0")
    store.get_or_compute("part", {}, compute, sources=SOURCES)
    assert compute.calls == 2


def test_disabled_cache_computes_and_stores_nothing(tmp_path):
    compute = Counted()
    store = Cache(tmp_path / "cache", enabled=False)
    results = [store.get_or_compute("part", {}, compute, sources=SOURCES) for _ in range(2)]
    assert compute.calls == 2
    assert_same(*results)
    assert not store.folder.exists()


DAMAGES = {
    "empty": lambda data: b"",
    "not ours": lambda data: b"PK\x03\x04 something else",
    "other format version": lambda data: data.replace(b"cache 1\n", b"cache 9\n", 1),
    "header cut": lambda data: data[:40],
    "header not JSON": lambda data: data.replace(b'{"key"', b'{"key', 1),
    "header is a list": lambda data: b"deva_theory cache 1\n[1]\n",
    "header not UTF-8": lambda data: b"deva_theory cache 1\n\xff\xfe\n",
    "payload cut": lambda data: data[:-1],
    "payload flipped": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    "payload gone": lambda data: data[: data.index(b"\n", 30) + 1],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_is_computed_again_with_a_warning(store, damage):
    good = store.get_or_compute("part", {}, Counted(), sources=SOURCES)
    file = only_file(store.folder)
    file.write_bytes(damage(file.read_bytes()))
    compute = Counted()
    with pytest.warns(CacheWarning, match="not trusted"):
        again = store.get_or_compute("part", {}, compute, sources=SOURCES)
    assert compute.calls == 1
    assert_same(good, again)
    # The file is repaired.
    store.get_or_compute("part", {}, compute, sources=SOURCES)
    assert compute.calls == 1


def test_foreign_file_under_the_right_name_is_not_trusted(store):
    store.get_or_compute("part", {"seed": 1}, Counted(1.0), sources=SOURCES)
    foreign = only_file(store.folder).read_bytes()
    shutil.rmtree(store.folder)
    store.get_or_compute("part", {"seed": 2}, Counted(2.0), sources=SOURCES)
    only_file(store.folder).write_bytes(foreign)
    with pytest.warns(CacheWarning, match="another configuration or code"):
        result = store.get_or_compute("part", {"seed": 2}, Counted(2.0), sources=SOURCES)
    assert result["loss"][0] == 2.0


def test_pickled_payload_with_a_right_checksum_is_not_loaded(store):
    store.get_or_compute("part", {}, Counted(), sources=SOURCES)
    file = only_file(store.folder)
    magic, header, _ = file.read_bytes().split(b"\n", 2)
    payload = Path(file.parent / "evil.npz")
    np.savez(payload, contents=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    data = payload.read_bytes()
    payload.unlink()
    fields = json.loads(header) | {"sha256": cache.hashlib.sha256(data).hexdigest()}
    file.write_bytes(magic + b"\n" + json.dumps(fields).encode() + b"\n" + data)
    compute = Counted()
    with pytest.warns(CacheWarning, match="cannot be decoded"):
        store.get_or_compute("part", {}, compute, sources=SOURCES)
    assert compute.calls == 1


def test_interrupted_run_resumes_with_the_unfinished_part(store):
    def run(interrupt_at=None):
        computed = []
        for part in range(4):

            def compute(part=part):
                if part == interrupt_at:
                    raise KeyboardInterrupt
                computed.append(part)
                return {"value": np.array([part])}

            store.get_or_compute(f"part-{part}", {"part": part}, compute, sources=SOURCES)
        return computed

    with pytest.raises(KeyboardInterrupt):
        run(interrupt_at=2)
    assert run() == [2, 3]
    assert run() == []


def test_interrupted_write_leaves_no_file(store, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.get_or_compute("part", {}, Counted(), sources=SOURCES)
    assert list(store.folder.iterdir()) == []


def test_unwritable_folder_warns_and_returns_the_result(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(CacheWarning, match="could not be cached"):
        result = Cache(tmp_path / "file").get_or_compute("part", {}, Counted(), sources=SOURCES)
    assert result["count"] == 3


def test_good_file_gives_no_warning(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            store.get_or_compute("part", {}, Counted(), sources=SOURCES)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", ".hidden", "a\n"])
def test_name_that_cannot_be_a_file_name(store, name):
    with pytest.raises(ValueError, match="cache name"):
        store.get_or_compute(name, {}, Counted(), sources=SOURCES)


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"rule": object()}, "config.rule"),
        ({"a": {"b": [1, {2}]}}, r"config\.a\.b\[1\]"),
        ({1: 2}, "keys"),
        ({"x": np.zeros(2)}, "config.x"),
    ],
)
def test_configuration_that_has_no_address(store, config, where):
    with pytest.raises(TypeError, match=where):
        store.get_or_compute("part", config, Counted(), sources=SOURCES)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1, 2], "must return a dict"),
        ({"x": [1, 2]}, "'x' is a list"),
        ({"x": np.array([{}])}, "object array"),
    ],
)
def test_result_that_cannot_be_stored(store, result, message):
    with pytest.raises(TypeError, match=message):
        store.get_or_compute("part", {}, lambda: result, sources=SOURCES)


def test_source_hash_reads_modules_packages_files_and_folders(tmp_path):
    package = tmp_path / "one" / "pack"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1\n")
    (package / "notes.txt").write_text("ignored")
    first = source_hash([package])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert source_hash([tmp_path / "two" / "pack"]) == first  # another place, the same code
    (package / "notes.txt").write_text("still ignored")
    assert source_hash([package]) == first
    (package / "b.py").write_text("")
    assert source_hash([package]) != first
    assert source_hash([deva_theory.runtime]) == source_hash([Path(cache.__file__).parent])
    assert source_hash([cache, package]) == source_hash([package, cache])


def test_source_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        source_hash([tmp_path / "gone.py"])
    import sys

    with pytest.raises(TypeError, match="no source file"):
        source_hash([type(sys)("made_up")])
