"""What the tests of the documentation read: its modules, the tables of the glossary, what a page loads."""

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
}


def module(name):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def glossary():
    """The keys of docs/metrics.md: section → subsection ("" before the first) → names in the first column."""
    found = {}
    for line in (DOCS / "metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            part = found[line[3:]] = {}
            keys = part[""] = set()
        elif line.startswith("### "):
            keys = part[line[4:]] = set()
        elif line.startswith("| `"):
            keys |= set(re.findall(r"`([^`]+)`", line.split("|")[1]))
    return found


class Page(HTMLParser):
    """The ids of a page, where its links lead, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids.add(values.get("id"))
        if tag == "a":
            self.links.append(values.get("href"))
        elif tag == "link" and values.get("rel") not in {"next", "prev"}:
            self.loads.append(values["href"])
        elif values.get(LOADED.get(tag)):
            self.loads.append(values[LOADED[tag]])
        self.loads += re.findall(r"url\(([^)]+)\)", values.get("style") or "")
        self.loads += [part.split()[0] for part in (values.get("srcset") or "").split(",") if part.strip()]
