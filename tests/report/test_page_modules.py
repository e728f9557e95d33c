"""The modules of the page's scripts: each imports what it uses, all load as ES modules, and the page is their sum."""

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import ClassVar

import pytest

from antiphase.page.html import render_page
from antiphase.page.scripts import module_of, modules_from, one_script
from browser import READY, Watched
from javascript import used_names
from page_cases import synthetic

ASSETS = Path(str(resources.files("antiphase.page") / "assets"))
# Scripts of their own, which the page loads beside the modules.
ALONE = {"echarts.min", "live"}


def read(name):
    return (ASSETS / f"{name}.js").read_text(encoding="utf-8")


MODULES = {module.name: module for module in modules_from("main", read)}
# What stands at the start of a line is a module's own, exported or not.
OWN = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) ([\w$]+)", re.MULTILINE)
OWNERS = {name: module.name for module in MODULES.values() for name in OWN.findall(module.source)}


def missing_imports(name, source):
    """What a module uses of other modules without an import, or declares under the name of something of theirs."""
    imported = {taken for names in module_of(name, source).imports.values() for taken in names}
    return {used for used in used_names(source) if OWNERS.get(used, name) != name} - imported


def unused_imports(name, source):
    """What a module imports and does not use."""
    return {taken for names in module_of(name, source).imports.values() for taken in names} - used_names(source)


# Every module by itself


def test_every_script_is_a_module_of_the_page() -> None:
    assert {path.stem for path in ASSETS.glob("*.js")} - ALONE == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_what_it_uses_and_nothing_else(name) -> None:
    assert missing_imports(name, read(name)) == set()
    assert unused_imports(name, read(name)) == set()


@pytest.mark.parametrize("name", MODULES)
def test_every_missing_import_is_found(name) -> None:
    """Each import of each module, left out, is missed: the reader of names overlooks none of their uses."""
    for names in MODULES[name].imports.values():
        for taken in names:
            without = re.sub(rf"(?<=[ ,]){re.escape(taken)}(?=[ ,])(?=.* from )", "unused", read(name), count=1)
            assert missing_imports(name, without) == {taken}
            assert unused_imports(name, without) == {"unused"}


def test_every_export_is_imported_by_another_module() -> None:
    taken = {name for module in MODULES.values() for names in module.imports.values() for name in names}
    assert {name for module in MODULES.values() for name in module.exports} == taken


def test_a_name_is_of_one_module() -> None:
    """So that a search finds it once, and a use without an import is told from a name of one's own."""
    assert sum(len(OWN.findall(module.source)) for module in MODULES.values()) == len(OWNERS)


def test_a_name_that_is_not_exported_is_missed_too() -> None:
    assert missing_imports("main", read("main") + "\nredraw();") == {"redraw"}


@pytest.mark.parametrize(
    ("source", "uses"),
    [
        ("const a = counted(3);", True),
        ("const a = `${counted(3)} more`;", True),
        ("const a = `x${[1].map((i) => { return `${counted(i)}`; })}`;", True),
        ("const a = [...counted];", True),
        ("const a = { counted };", True),
        ("const a = b ? counted : 0;", True),
        ("const a = 6 / counted(3) / 2;", True),
        ("const a = /['`]/.test(b) ? counted(3) : 0;", True),
        ("const a = x[0] / 2; const b = `${counted(3)}`; const c = 4 / 2;", True),
        ("const a = 'counted';", False),
        ('const a = "\\"counted";', False),
        ("const a = `counted ${1} counted \\` counted`;", False),
        ("// counted\n/* counted\n counted */", False),
        ("const a = b.counted + b?.counted;", False),
        ("const a = { counted: 1, b: 2 };", False),
        ("const a = b.replace(/[/]counted/g, '');", False),
    ],
)
def test_the_reader_of_names(source, uses) -> None:
    assert missing_imports("other", source) == ({"counted"} if uses else set())


# One script of modules


def test_a_module_runs_after_those_that_it_imports() -> None:
    known = set()
    for name, module in MODULES.items():
        assert set(module.imports) <= known
        known.add(name)


TOGETHER = {"main": 'import { a } from "./other.js";\na();', "other": "let b = 1;\nexport const a = () => b;"}


def test_modules_see_nothing_but_what_they_import() -> None:
    assert one_script("main", TOGETHER.__getitem__) == (
        '"use strict";\n(() => {\nconst modules = {};\n'
        "modules.other = (() => {\nlet b = 1;\nconst a = () => b;\nreturn { a };\n})();\n"
        "modules.main = (() => {\nconst { a } = modules.other;\na();\nreturn {  };\n})();\n"
        "})();\n"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"main": 'import { c } from "./other.js";'}, "main.js imports c from other.js, which does not export it"),
        ({"other": 'import { d } from "./main.js";\nexport const a = 1;'}, "main imports other imports main"),
        ({"other": "export let a = 1;"}, "other.js has 'export let a = 1;'"),
        ({"other": "export default 1;"}, "expected import"),
        ({"main": 'import * as a from "./other.js";'}, "main.js has 'import"),
        ({"main": 'import { a as b } from "./other.js";'}, "imports a as b"),
        ({"main": 'import "./other.js";'}, "main.js has 'import"),
    ],
)
def test_what_would_not_link_is_refused(changes, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        one_script("main", {**TOGETHER, **changes}.__getitem__)


# In a browser


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, without a word."""

    extensions_map: ClassVar = {".js": "text/javascript", ".html": "text/html; charset=utf-8"}

    def log_message(self, *words):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder that holds the scripts, and its address."""
    for path in ASSETS.glob("*.js"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "favicon.ico").write_bytes(b"")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def unbundled(html):
    """The page with its modules as files in place of their sum."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    script = one_script("main", read)
    assert html.count(script) == 1
    begin = html.rindex("<script", 0, html.index(script))
    end = html.index("</script>", html.index(script))
    return html[:begin] + '<script type="module" src="main.js">' + html[end:]


def test_the_page_is_the_same_with_its_modules_loaded_as_modules(browser, served) -> None:
    folder, address = served
    html = render_page(synthetic(["a", "b"], 4, 30))
    (folder / "one.html").write_text(html)
    (folder / "many.html").write_text(unbundled(html))
    shown = {}
    for name in ("one", "many"):
        watched = Watched(browser)
        watched.page.goto(f"{address}/{name}.html")
        watched.page.wait_for_selector(READY, timeout=30_000)
        watched.page.locator("#next").click()
        watched.page.locator('#text [data-token="35"]').click()
        watched.page.wait_for_selector("#details h3")
        shown[name] = watched.page.locator("body").inner_text()
        watched.quiet(address)
        loaded = {url.rpartition("/")[2].removesuffix(".js") for url in watched.requests if url.endswith(".js")}
        assert loaded == (set(MODULES) if name == "many" else set())
        watched.context.close()
    assert shown["one"] == shown["many"]
    assert len(shown["one"]) > 2000


def test_a_browser_refuses_an_import_that_is_no_export(browser, served) -> None:
    """The test above would see it."""
    folder, address = served
    (folder / "main.js").write_text(read("main").replace("{ $, ", "{ $, absent, "))
    (folder / "page.html").write_text('<!doctype html><script type="module" src="main.js"></script>')
    watched = Watched(browser)
    watched.page.goto(f"{address}/page.html")
    watched.page.wait_for_load_state()
    assert any("does not provide an export named 'absent'" in text for text in watched.trouble), watched.trouble
    watched.context.close()
