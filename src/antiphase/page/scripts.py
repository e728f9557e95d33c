"""The ES modules of the page as one script, since a page that fetches nothing cannot load modules.

Every module becomes a function that returns what it exports, so that in the page too a module sees what it imports
and nothing else. They run in the order in which a browser runs modules: imported ones first. Of the syntax of modules
this knows what the assets use, on one line each, and refuses the rest:

    import { a, b } from "./core.js";
    export const a = 1;                 also function, async function and class

What several modules write is a property of an exported object: there is no exported `let`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

IMPORT = re.compile(r'^import \{ ([\w$, ]+) \} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:const|function|async function|class) ([\w$]+))", re.MULTILINE)
OTHER = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)


@dataclass(frozen=True)
class Module:
    """What a module takes and gives.

    Attributes:
        name: of the file, without its ending.
        imports: names by the module that they come from, in the order of the file.
        exports: in the order of the file.
        source: as the file has it.
    """

    name: str
    imports: dict[str, tuple[str, ...]]
    exports: tuple[str, ...]
    source: str

    @property
    def body(self) -> str:
        """The source as the body of a function: imports are constants in it, and exports are returned."""
        taken = IMPORT.sub(r"const { \1 } = modules.\2;", self.source)
        return f"{EXPORT.sub('', taken)}\nreturn {{ {', '.join(self.exports)} }};"


def module_of(name: str, source: str) -> Module:
    r"""Read a module's imports and exports.

    Args:
        name: of the file, without its ending.
        source: of the file.

    Raises:
        ValueError: an import or export of another form than the module's docstring shows.

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
    """A module and all that it imports, directly or not, in the order in which a browser runs them.

    Args:
        main: the module that starts the page.
        read: source of a module by its name.

    Raises:
        ValueError: modules import each other in a circle, or a name that is not exported.
    """
    ready: dict[str, Module] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(f"{' imports '.join((*path, name))}, a circle; move what both need into a third module.")
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
    """The script that does what loading the module `main` would do.

    Args:
        main: the module that starts the page.
        read: source of a module by its name.

    Raises:
        ValueError: as `module_of` and `modules_from`.
    """
    parts = [f"modules.{each.name} = (() => {{\n{each.body}\n}})();" for each in modules_from(main, read)]
    return '"use strict";\n(() => {\nconst modules = {};\n' + "\n".join(parts) + "\n})();\n"
