"""Find and load a user's own code, `file.py:NAME` or `package.module:NAME`, and compute the sha256 of its file.

If the user's code raises an error, the error message is one line, with the line number in the file. A file that was
loaded is run again only if its content has changed.
"""

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from antiphase.errors import AntiphaseError, InvalidInputError
from antiphase.registry import did_you_mean

_FORM = re.compile(r"(?P<place>.+\.py|[A-Za-z_]\w*(?:\.\w+)*):(?P<name>[A-Za-z_]\w*)")
_files: dict[Path, tuple[str, ModuleType]] = {}
_modules: dict[str, str] = {}


@dataclass(frozen=True)
class CodePlace:
    """The place of a user's code: a file or module, and the name of an object in it.

    Args:
        place: the absolute path of the file, or the name of the module.
        name: the name of the object in that file or module.
        written: `place` as the user wrote it.
    """

    place: str
    name: str
    written: str

    @property
    def path(self) -> Path | None:
        """The path of the file; None if the code is in a module."""
        return Path(self.place) if self.place.endswith(".py") else None

    @property
    def text(self) -> str:
        """The place and the name as one text, which is valid in every working directory."""
        return f"{self.place}:{self.name}"


@dataclass(frozen=True)
class UserCode:
    """An object of the user that was loaded from a file or module.

    Args:
        place: where the code is.
        value: the object itself.
        file: the file that holds the code; None for a module without a file.
        sha256: the sha256 of `file`, without the files that it imports. None for a module without a file.
    """

    place: CodePlace
    value: Any
    file: Path | None
    sha256: str | None


def code_place(text: str) -> CodePlace | None:
    """Return the place that a text such as `file.py:NAME` or `package.module:NAME` names; None for any other text.

    The file or module need not exist.

    >>> code_place("chemistry.tasks:MolarMass")
    CodePlace(place='chemistry.tasks', name='MolarMass', written='chemistry.tasks')
    >>> code_place("gsm8k"), code_place("some/file.jsonl")
    (None, None)
    """
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    place = match["place"]
    if place.endswith(".py"):
        place = str(Path(place).expanduser().absolute())
    return CodePlace(place, match["name"], match["place"])


def load_code(place: CodePlace, what: str, kind: str) -> UserCode:
    """Import the file or module, and take the named object out of it.

    Args:
        place: where the code is.
        what: the text that error messages begin with, such as `task 'file.py:MyTask'`.
        kind: what error messages call the object: `task` or `function`.

    Raises:
        InvalidInputError: there is no such file, module or name, or the code raises while it is imported.
    """
    module, sha256 = _imported(place, what)
    if not hasattr(module, place.name):
        own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise InvalidInputError(
            f"{what}: {place.written} has no {kind} {place.name!r}.{did_you_mean(place.name, own)}"
        )
    file = getattr(module, "__file__", None)
    return UserCode(place, getattr(module, place.name), None if file is None else Path(file), sha256)


def file_sha256(place: CodePlace, what: str) -> str | None:
    """Return the sha256 that the file has now; None for a module without a file.

    The code is not run. For a module, only the packages that contain it are imported.

    Raises:
        InvalidInputError: there is no such file or module.
    """
    path = place.path
    if path is None:
        path = _module_file(place, what)
    return None if path is None else hashlib.sha256(_read(path, place, what)).hexdigest()


def is_current(code: UserCode) -> bool:
    """Return whether the file still has the content that was loaded.

    A module is always current, because Python imports it only once.
    """
    path = code.place.path
    if path is None:
        return True
    now = code_place(f"{code.place.written}:{code.place.name}")
    if now != code.place:
        return False
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == code.sha256
    except OSError:
        return False


def failure(error: BaseException, path: Path | str | None) -> str:
    """Return one line about an error in the user's code: its type, its text and, if known, its line in the file."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path):
            line = frame.lineno
    told = f"{type(error).__name__}: {' '.join(text.split())}" if text.strip() else type(error).__name__
    return told if line is None else f"{told}; line {line}"


def _imported(place: CodePlace, what: str) -> tuple[ModuleType, str | None]:
    """Return (the module that holds the code, the sha256 of its file)."""
    path = place.path
    if path is not None:
        source = _read(path, place, what)
        sha256 = hashlib.sha256(source).hexdigest()
        known = _files.get(path)
        if known is None or known[0] != sha256:
            known = _files[path] = (sha256, _run(path, source, place, what))
        return known[1], known[0]
    file = _module_file(place, what)
    try:
        module = importlib.import_module(place.place)
    except AntiphaseError:
        raise
    except (Exception, SystemExit) as error:
        raise _not_imported(place, what, failure(error, file)) from error
    if file is not None and place.place not in _modules:
        _modules[place.place] = hashlib.sha256(_read(file, place, what)).hexdigest()
    return module, _modules.get(place.place)


def _run(path: Path, source: bytes, place: CodePlace, what: str) -> ModuleType:
    """Run the source of a file as a new module, and return the module."""
    # The module gets a name of its own, so that a file `random.py` does not hide the standard module. It must be in
    # sys.modules, because data classes look themselves up there.
    name = f"user_code_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except BaseException as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        if isinstance(error, AntiphaseError) or not isinstance(error, Exception | SystemExit):
            raise
        raise _not_imported(place, what, failure(error, path)) from error
    return module


def _not_imported(place: CodePlace, what: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"{what}: {place.written} cannot be imported ({reason}).")


def _read(path: Path, place: CodePlace, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidInputError(f"{what}: there is no file {place.written!r}.") from None
    except OSError as error:
        raise InvalidInputError(f"{what}: {place.written} cannot be read ({error.strerror or error}).") from None


def _module_file(place: CodePlace, what: str) -> Path | None:
    """Return the file of a module, which may lie in the working directory; None if the module has no file."""
    # `python -m` searches the working directory, but a console script does not.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(place.place)
    except AntiphaseError:
        raise
    except (Exception, SystemExit) as error:  # raised by the packages around the module
        raise _not_imported(place, what, failure(error, None)) from error
    if spec is None:
        raise _not_imported(place, what, f"there is no module {place.place!r} in the working directory or installed")
    return Path(spec.origin) if spec.has_location and spec.origin is not None else None
