"""Render a document as one HTML file that holds its style, scripts, charts and data; the page fetches nothing.

The text of a run reaches the page in only two ways: Jinja2 escapes it, or it is JSON with escaped markup characters,
which the scripts put into text nodes. The content security policy of the page names its scripts by their digests and
allows nothing else. A page made with `live` may also ask the server that it came from.
"""

import base64
import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
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
from antiphase.page.wording import signed


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
    shown = (signed, overview.interval, overview.share, overview.number)
    environment.filters |= {"plain": plain_text, **{text.__name__: text for text in shown}}
    return environment


def plain_text(value: object) -> str:
    r"""Return a value as text, with � in place of each character that a page must not hold.

    These characters are lone surrogates, which UTF-8 cannot encode, and characters that change the reading direction.

    >>> plain_text("a\u202eb")
    'a�b'
    """
    return _TURNING.sub("\ufffd", str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")


def json_for_script(value: Any) -> Markup:
    """Return a value as JSON that can stand in a script element: ASCII without the characters <, > and &."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def render_page(document: Document, *, live: str | None = None, max_characters: int = MAX_CHARACTERS) -> str:
    """Render the interactive page as the text of one HTML file.

    Args:
        document: what the page shows.
        live: for a page that a server sends, the version of the runs that it shows; None for a page that is a file. A
            served page asks its server for the newest version, and reloads when the version has changed.
        max_characters: the most characters that the packed columns may take together. The page has about 1.3 MB more.

    Returns:
        the HTML, cleaned by `plain_text`.
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
    """Render only the overview of the page, as a piece of HTML with its own style. Notebooks show it."""
    return plain_text(_environment().get_template("fragment.html.j2").render(**_overview(document)))


def _overview(document: Document) -> dict[str, Any]:
    """Return the variables that the templates of the overview use."""
    lines, estimators = overview.lines_of(document), overview.estimators_of(document)
    return {
        "document": document,
        "lines": lines,
        "estimators": estimators,
        "measured": overview.measured_of(lines),
        "model_notes": overview.model_notes_of(lines),
    }


def _policy(scripts: Sequence[str], live: bool) -> str:
    """Return the text of the content security policy of a page, which allows only these scripts."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def write_page(document: Document, path: Path) -> Path:
    """Write the page, and return its path. The file gets its name only when it is complete.

    Args:
        document: what the page shows.
        path: the file to write.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    text = render_page(document)
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
    """Write the page of a finished run. A failure is only a warning, because the results are already stored.

    Args:
        make: a function that makes the document.
        path: the file to write, in the folder of the run.
    """
    try:
        write_page(make(), path)
    except InvalidInputError as error:
        warnings.warn(
            f"{error} The results are complete; to make their page: antiphase report {path.parent}", stacklevel=3
        )
