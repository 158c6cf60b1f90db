"""Content-addressed cache of computed results, so that a long run resumes after an interrupt.

A result is addressed by everything that determines it: a name, a configuration, the source code that computes
it, and the versions of torch and NumPy. Changing any of them makes another address; nothing is ever
invalidated by hand. A run that consists of many parts asks the cache for each part, and after an interrupt
finds the finished ones there.

One file holds one result: a magic line, one line of JSON (the address and a SHA-256 of the payload), then the
payload in NumPy's ``npz`` format. Nothing is pickled. A file that is damaged, or that belongs to another
address, is never trusted: it is computed again, with a `CacheWarning`.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Cache", "CacheWarning", "source_hash"]

_MAGIC = b"deva_theory cache 1\n"
_CONTENTS = "contents"  # the payload's table of contents: JSON, stored as bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*\Z")


class CacheWarning(UserWarning):
    """A cache file could not be used or written; the result itself is right."""


class _Untrusted(Exception):
    """A cache file is not what its name says; the message is the reason."""


class Cache:
    """Results of computations, kept as files below one folder.

    Parameters
    ----------
    folder : Path or str
        Where the files lie; made when the first result is stored. Usually ``<root>/build/cache``.
    enabled : bool, default True
        False computes every time and stores nothing.

    Attributes
    ----------
    hits, misses : int
        How many results came from a file, and how many were computed, since this object was made.
    """

    def __init__(self, folder: Path | str, enabled: bool = True) -> None:
        self.folder = Path(folder)
        self.enabled = enabled
        self.hits = 0
        self.misses = 0

    def get_or_compute(
        self,
        name: str,
        config: object,
        compute: Callable[[], Mapping[str, Any]],
        *,
        sources: Iterable[ModuleType | Path],
    ) -> dict[str, Any]:
        """Return the stored result of `compute` for this address, or compute and store it.

        Parameters
        ----------
        name : str
            What is computed, for instance ``"trace_quadratic-sgd"``: letters, digits and ``_ . = + -``.
        config : Mapping or dataclass instance
            Everything that the result depends on besides code: JSON values, tuples, NumPy scalars and
            dataclasses, nested as needed.
        compute : callable
            Takes no argument and returns a mapping from names to NumPy arrays (no object arrays) or JSON
            scalars. NumPy scalars are returned as the Python scalars they equal.
        sources : iterable of modules or paths
            The code that the result depends on. A package or a folder stands for all Python files below it.

        Returns
        -------
        dict
            The result, equal whether it was computed now or read from a file.

        Raises
        ------
        ValueError
            If `name` cannot be a file name.
        TypeError
            If `config` or the result holds something that can be neither hashed nor stored.
        FileNotFoundError
            If a source does not exist.

        Warns
        -----
        CacheWarning
            If a file was damaged or foreign and the result was computed again, or could not be stored.
        """
        if not _NAME.match(name):
            raise ValueError(f"cache name {name!r}: use letters, digits and _ . = + - only")
        if not self.enabled:
            self.misses += 1
            return _normalised(compute(), name)
        key = _address(name, config, sources)
        path = self.folder / f"{name}-{key[:24]}.cache"
        if path.exists():
            try:
                result = _read(path, key)
            except _Untrusted as reason:
                _warn(f"cache file {path.name} is not trusted ({reason}); computed again")
            else:
                self.hits += 1
                return result
        self.misses += 1
        result = _normalised(compute(), name)
        try:
            _write(path, key, result)
        except OSError as error:
            _warn(f"{name} could not be cached ({error.strerror or error}); a later run computes it again")
        return result


def source_hash(sources: Iterable[ModuleType | Path]) -> str:
    """Hash the text of source files, whatever folder they lie in.

    Parameters
    ----------
    sources : iterable of modules or paths
        Modules, files or folders; a package or a folder stands for all ``*.py`` files below it.

    Returns
    -------
    str
        SHA-256, hexadecimal. The order of `sources` does not matter, file names and contents do.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    TypeError
        If a module has no source file.
    """
    entries = set()
    for source in sources:
        if isinstance(source, ModuleType):
            file_name = getattr(source, "__file__", None)
            if not file_name:
                raise TypeError(f"module {source.__name__!r} has no source file; name another source")
            # A package is its folder.
            is_package = hasattr(source, "__path__")
            origin = Path(file_name).parent if is_package else Path(file_name)
        else:
            origin = Path(source)
        if not origin.exists():
            raise FileNotFoundError(f"cache source {str(origin)!r} does not exist")
        for file in sorted(origin.rglob("*.py")) if origin.is_dir() else [origin]:
            # Relative to the source's own parent: two clones of one project share their addresses.
            label = file.relative_to(origin.parent).as_posix()
            entries.add((label, hashlib.sha256(file.read_bytes()).hexdigest()))
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def _address(name: str, config: Any, sources: Iterable[ModuleType | Path]) -> str:
    address = {
        "name": name,
        "config": _canonical(config, "config"),
        "sources": source_hash(sources),
        # From the metadata: finding a result must not wait for torch's import.
        "versions": {package: _version(package) for package in ("torch", "numpy")},
    }
    return hashlib.sha256(json.dumps(address, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _canonical(value: Any, where: str) -> Any:
    """JSON value that equal configurations share; `where` names the place in errors."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: _canonical(getattr(value, f.name), f"{where}.{f.name}") for f in fields}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{where}: the keys of a configuration must be strings")
        return {key: _canonical(value[key], f"{where}.{key}") for key in value}
    if isinstance(value, list | tuple):
        return [_canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{where}: a {type(value).__name__} cannot be part of a cache address; "
        "use strings, numbers, booleans, None, and lists, dicts or dataclasses of them"
    )


def _normalised(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Copy `result` with each value in the form in which a file returns it."""
    if not isinstance(result, Mapping):
        raise TypeError(f"{name}: compute() must return a dict, not a {type(result).__name__}")
    out: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError(f"{name}: {key!r} is an object array; give it a plain dtype")
        elif not (value is None or isinstance(value, bool | int | float | str)):
            raise TypeError(
                f"{name}: {key!r} is a {type(value).__name__}; cache NumPy arrays and JSON scalars"
            )
        out[str(key)] = value
    return out


def _encode(result: Mapping[str, Any]) -> bytes:
    # Arrays are stored under numbers: any string may name a result, whatever a zip archive thinks of it.
    arrays: dict[str, np.ndarray] = {}
    contents: list[list[Any]] = []
    for key, value in result.items():
        if isinstance(value, np.ndarray):
            contents.append([key, "array", f"a{len(arrays)}"])
            arrays[f"a{len(arrays)}"] = value
        else:
            contents.append([key, "scalar", value])
    arrays[_CONTENTS] = np.frombuffer(json.dumps(contents).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _decode(payload: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
        contents = json.loads(archive[_CONTENTS].tobytes())
        return {key: archive[value] if kind == "array" else value for key, kind, value in contents}


def _write(path: Path, key: str, result: Mapping[str, Any]) -> None:
    payload = _encode(result)
    header = {"key": key, "sha256": hashlib.sha256(payload).hexdigest()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + json.dumps(header).encode() + b"\n" + payload)
        # Atomic: another process sees the whole file or none.
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _Untrusted(f"cannot be read: {error.strerror}") from None
    if not data.startswith(_MAGIC):
        raise _Untrusted("not a cache file of this version")
    line, _, payload = data[len(_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        stored_key, digest = header["key"], header["sha256"]
    except (ValueError, KeyError, TypeError):
        raise _Untrusted("its header is damaged") from None
    if stored_key != key:
        raise _Untrusted("it holds the result of another configuration or code")
    if hashlib.sha256(payload).hexdigest() != digest:
        raise _Untrusted("its checksum does not match")
    try:
        return _decode(payload)
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise _Untrusted(f"its payload cannot be decoded: {error}") from None


def _warn(message: str) -> None:
    warnings.warn(message, CacheWarning, stacklevel=3)
