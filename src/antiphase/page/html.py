"""A document as one HTML file: template, style, scripts, charts and data inline; nothing is fetched.

Text of runs reaches the page in two ways only: through Jinja2 with autoescape, or as JSON whose markup characters are
escaped, which the scripts put into text nodes. A content security policy allows the scripts of the page, by their
digests, and nothing else; with `live`, also requests to the server that the page came from.
"""

import base64
import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from antiphase.errors import InvalidInputError
from antiphase.page import overview
from antiphase.page.document import Document
from antiphase.page.payload import MAX_CHARACTERS, payload_of
from antiphase.page.scripts import one_script


@functools.cache
def _asset(name: str) -> str:
    return resources.files("antiphase.page").joinpath("assets", name).read_text(encoding="utf-8")


@functools.cache
def _script() -> str:
    return one_script("main", lambda name: _asset(f"{name}.js"))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("antiphase.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "signed": overview.signed,
        "interval": overview.interval,
        "share": overview.share,
        "number": overview.number,
        "plain": plain_text,
    }
    return environment


def plain_text(value: object) -> str:
    r"""Text without lone surrogates, which UTF-8 cannot hold (�), and without characters that turn the direction.

    >>> plain_text("a\u202eb")
    'a�b'
    """
    return _TURNING.sub("\ufffd", str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")


def json_for_script(value: Any) -> Markup:
    """JSON that may stand in a script element: ASCII, without <, > and &."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def render_page(document: Document, *, live: str | None = None, max_characters: int = MAX_CHARACTERS) -> str:
    """The page.

    Args:
        document: what it shows.
        live: the version of the runs that a served page is made of; the page asks its server for the newest, and
            loads itself again where they differ.
        max_characters: of the packed columns; the page is about 1.3 MB larger.

    Returns:
        HTML, without lone surrogates and without characters that turn the direction.
    """
    values, columns = payload_of(document, max_characters)
    scripts = [Markup(_asset("echarts.min.js")), Markup(_script())]
    if live is not None:
        scripts.append(Markup(_asset("live.js")))
    return plain_text(
        _environment()
        .get_template("page.html.j2")
        .render(
            **_overview(document),
            policy=_policy(scripts, live is not None),
            version=live,
            style=Markup(_asset("page.css")),
            scripts=scripts,
            values=json_for_script(values),
            columns=columns,
        )
    )


def render_overview(document: Document) -> str:
    """The overview alone, as a fragment with its own style; for notebooks."""
    return plain_text(_environment().get_template("fragment.html.j2").render(**_overview(document)))


def _overview(document: Document) -> dict[str, Any]:
    """What the overview's templates show."""
    lines = overview.lines_of(document)
    return {
        "document": document,
        "lines": lines,
        "estimators": overview.estimators_of(document),
        "measured": overview.measured_of(lines),
    }


def _policy(scripts: Sequence[str], live: bool) -> str:
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def write_page(document: Document, path: Path, options: Mapping[str, Any] | None = None) -> Path:
    """Write the page; it appears under its name only when whole.

    Args:
        document: what it shows.
        path: of the file.
        options: of `render_page`.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    text = render_page(document, **dict(options or {}))
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            work.write_text(text, encoding="utf-8")
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot write {str(path)!r} ({error.strerror or error}).") from error
    return path


def add_page(make: Callable[[], Document], path: Path) -> None:
    """Write the page of a run that is complete; if that fails it is a warning, since the results are safe.

    Args:
        make: the document.
        path: of the file, in the folder of the run.
    """
    try:
        write_page(make(), path)
    except InvalidInputError as error:
        warnings.warn(
            f"{error} The results are complete; to make their page: antiphase report {path.parent}", stacklevel=3
        )
