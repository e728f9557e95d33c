"""Join the JavaScript modules of the page into one script, because a page that fetches nothing cannot load modules.

Every module becomes a function that returns its exports. So a module in the page sees only what it imports. The
functions run in the order in which a browser runs modules: imported modules run first. Imports and exports must have
one of these forms, each on one line; every other form is refused:

    import { a, b } from "./core.js";
    export const a = 1;                 also function, async function and class

A module cannot export a `let`. A value that several modules change must be a property of an exported object.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

IMPORT = re.compile(r'^import \{ ([\w$, ]+) \} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:const|function|async function|class) ([\w$]+))", re.MULTILINE)
OTHER = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)


@dataclass(frozen=True)
class Module:
    """A JavaScript module of the page, with its imports and exports.

    Attributes:
        name: the name of its file without the suffix.
        imports: for each module that it imports from, the imported names, in the order of the file.
        exports: the exported names, in the order of the file.
        source: the text of the file.
    """

    name: str
    imports: dict[str, tuple[str, ...]]
    exports: tuple[str, ...]
    source: str

    @property
    def body(self) -> str:
        """The source as the body of a function that returns the exports. In it, the imports are constants."""
        taken = IMPORT.sub(r"const { \1 } = modules.\2;", self.source)
        return f"{EXPORT.sub('', taken)}\nreturn {{ {', '.join(self.exports)} }};"


def module_of(name: str, source: str) -> Module:
    r"""Return a JavaScript module, with its imports and exports read from its source.

    Args:
        name: the name of its file without the suffix.
        source: the text of the file.

    Raises:
        ValueError: an import or export has another form than `import { a, b } from "./file.js"`, or `export` before
            `const`, `function`, `async function` or `class`.

    >>> module_of("tables", 'import { $ } from "./core.js";\nexport const CSV = new Map();').exports
    ('CSV',)
    """
    imports: dict[str, tuple[str, ...]] = {}
    for names, origin in IMPORT.findall(source):
        imports[origin] = (*imports.get(origin, ()), *names.split(", "))
    module = Module(name, imports, tuple(EXPORT.findall(source)), source)
    if other := OTHER.search(module.body):
        raise ValueError(
            f'{name}.js has {other[0].strip()!r}; expected import {{ a, b }} from "./file.js"; or export before '
            "const, function, async function or class, at the start of a line."
        )
    return module


def modules_from(main: str, read: Callable[[str], str]) -> list[Module]:
    """Return a module and all modules that it imports, directly or not, in the order in which a browser runs them.

    Args:
        main: the name of the module that starts the page.
        read: a function that takes the name of a module and returns its source.

    Raises:
        ValueError: modules import each other in a circle, or a module imports a name that is not exported.
    """
    ready: dict[str, Module] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(
                f"{' imports '.join((*path, name))}. This is a circle; move what both need into a third module."
            )
        if name in ready:
            return
        module = module_of(name, read(name))
        for origin, names in module.imports.items():
            visit(origin, (*path, name))
            if missing := [taken for taken in names if taken not in ready[origin].exports]:
                raise ValueError(f"{name}.js imports {', '.join(missing)} from {origin}.js, which does not export it.")
        ready[name] = module

    visit(main, ())
    return list(ready.values())


def one_script(main: str, read: Callable[[str], str]) -> str:
    """Return one script that does the same as loading the module `main`.

    Args:
        main: the name of the module that starts the page.
        read: a function that takes the name of a module and returns its source.

    Raises:
        ValueError: for the reasons of `module_of` and `modules_from`.
    """
    parts = [f"modules.{each.name} = (() => {{\n{each.body}\n}})();" for each in modules_from(main, read)]
    return '"use strict";\n(() => {\nconst modules = {};\n' + "\n".join(parts) + "\n})();\n"
