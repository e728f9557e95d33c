"""What the site is made of beside docs/*.md: included pages, right links, the table of public names, the notebook.

Every Markdown file is written to be read in the repository. Here each of its relative links is turned into what it
names on the site: a page, an API entry (for a file of the package), or a copy of the file (for everything else).
"""

import ast
import base64
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import antiphase

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "recipes/README.md",
    "recipes/*/README.md",
    "studies/*/README.md",
    "studies/*/verdict.md",
    "studies/*/*/report.md",
)
NOTEBOOK = "docs/notebook.ipynb"
PUBLIC_NAMES = "<!-- public names -->"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_TABLE_ROW = re.compile(r"^\|.*\|$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]+`")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def site_uri(path: str) -> str:
    """Where a file of the repository stands on the site.

    >>> site_uri("README.md"), site_uri("docs/method.md"), site_uri("recipes/tiny/README.md")
    ('index.md', 'method.md', 'recipes/tiny/README.md')
    """
    special = {"README.md": "index.md", NOTEBOOK: "notebook.md"}
    return special.get(path, path.removeprefix("docs/"))


def repository_path(uri: str) -> str:
    """The file of the repository that a page of the site was made from: the inverse of `site_uri`."""
    special = {"index.md": "README.md", "notebook.md": NOTEBOOK}
    path = special.get(uri, uri)
    return f"docs/{path}" if (ROOT / "docs" / path).exists() else path


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are kept elsewhere in the repository, and the notebook as a page."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            _add(files, config, path.relative_to(ROOT).as_posix())
    stored = files.get_file_from_path("notebook.ipynb")
    if stored is not None:
        files.remove(stored)
        text, images = notebook_markdown(json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8")))
        files.append(File.generated(config, "notebook.md", content=text))
        for name, content in images.items():
            files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the table of public names, and turn the links of the repository into those of the site."""
    markdown = markdown.replace(PUBLIC_NAMES, public_names())
    parts = _FENCE.split(markdown)
    uri = page.file.src_uri
    for place in range(0, len(parts), 2):
        part = _TABLE_ROW.sub(_plain_pipes, parts[place])
        parts[place] = _LINK.sub(lambda found: _site_link(found, uri, files, config), part)
    return "".join(parts)


def _plain_pipes(row: "re.Match[str]") -> str:
    """A row of a table without the backslash that GitHub wants before a | in code."""
    return _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0])


def _site_link(found: "re.Match[str]", uri: str, files: Files, config: MkDocsConfig) -> str:
    target, _, anchor = found["target"].partition("#")
    if not target or ":" in target:
        return found[0]
    path = os.path.normpath(os.path.join(os.path.dirname(repository_path(uri)), target))
    if (ROOT / path / "README.md").is_file():
        path = os.path.normpath(os.path.join(path, "README.md"))
    if not (ROOT / path).is_file():
        return found[0]  # mkdocs says that it leads nowhere
    if path.startswith("src/antiphase/") and path.endswith(".py"):
        return f"[{found['text']}][{api_name(path, found['text'])}]"
    if files.get_file_from_path(site_uri(path)) is None:
        _add(files, config, path)
    link = os.path.relpath(site_uri(path), os.path.dirname(uri) or ".")
    return f"{found['image']}[{found['text']}]({link}{'#' if anchor else ''}{anchor})"


def _add(files: Files, config: MkDocsConfig, path: str) -> None:
    files.append(File.generated(config, site_uri(path), abs_src_path=str(ROOT / path)))


def api_name(path: str, text: str) -> str:
    """The API entry that a link to a file of the package means: the name that its text gives, else the module.

    >>> api_name("src/antiphase/signals/measure.py", "`token_signals`")
    'antiphase.signals.measure.token_signals'
    >>> api_name("src/antiphase/signals/measure.py", "the measurement")
    'antiphase.signals.measure'
    """
    module = path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    name = text.strip("`").partition(".")[0]
    return f"{module}.{name}" if name in summaries(path) else module


@cache
def summaries(path: str) -> dict[str, str]:
    """The first sentence of the docstring of every function and class of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    named = [node for node in tree.body if isinstance(node, kinds)]
    return {node.name: (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ") for node in named}


def public_names() -> str:
    """A table of what `import antiphase` offers; each name links to where it is described."""
    rows = ["| name | |", "|---|---|"]
    for name in sorted(antiphase.__all__, key=str.lower):
        home = f"antiphase.{antiphase._HOMES[name]}"
        path = f"src/{home.replace('.', '/')}"
        path += ".py" if (ROOT / f"{path}.py").is_file() else "/__init__.py"
        anchor = f'<a id="antiphase.{name}"></a>'
        rows.append(f"| {anchor}[`antiphase.{name}`][{home}.{name}] | {summaries(path)[name]} |")
    return "\n".join(rows)


def notebook_markdown(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """A notebook with its stored outputs as a page, and the images on it by their place on the site."""
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            for place, output in enumerate(_outputs(cell)):
                kind, value = output
                if kind == "image/png":
                    name = f"notebook_files/{number}-{place}.png"
                    images[name] = base64.b64decode(value)
                    parts.append(f"![Output of the cell above]({name})")
                elif kind == "text/html":
                    parts.append(f'<div class="output">\n{value}\n</div>')
                else:
                    parts.append(f"```{{ .text .output }}\n{_ANSI.sub('', value).rstrip()}\n```")
    return "\n\n".join(parts) + "\n", images


def _outputs(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The richest form of each output of a cell."""
    for output in cell["outputs"]:
        forms = output.get("data", {"text/plain": output.get("text", "")})
        kind = next(kind for kind in ("image/png", "text/html", "text/plain") if kind in forms)
        yield kind, "".join(forms[kind])
