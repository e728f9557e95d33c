"""Names that a JavaScript source uses, read from its tokens: no parser, so scopes are unknown to it.

A name that a source declares counts as used; a module that declares what another one exports is told to rename it.
"""

import re

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
    | (?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
    | (?P<name>(?:[^\W\d]|\$)[\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<sign>\.\.\.|=>|\?\.|.)""",
    re.DOTALL | re.VERBOSE,
)
REGULAR = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*")
# A slash after one of these begins a regular expression; after anything else it divides.
BEFORE_REGULAR = {"return", "typeof", "case", "in", "of", "=>", "...", *"(,=:[!&|?{};+-*%<>~^"}
TEXT = ("text", "")


def tokens_of(source):
    """Kinds and tokens; a text or regular expression is one empty token, and ${} of a template gives its code."""
    found, open_braces, place = [], [], 0
    while place < len(source):
        match = TOKEN.match(source, place)
        kind, token = match.lastgroup, match[0]
        begins = token == "/" and (not found or found[-1][1] in BEFORE_REGULAR)
        regular = REGULAR.match(source, place) if begins else None
        place = regular.end() if regular else match.end()
        if token == "`" or (token == "}" and open_braces and open_braces[-1] == 0):
            if token == "}":
                open_braces.pop()
            place = _end_of_text(source, place)
            if source[place] == "$":
                open_braces.append(0)
            place += 2 if source[place] == "$" else 1
            found.append(TEXT)
        elif regular or kind == "text":
            found.append(TEXT)
        elif kind != "skip":
            if open_braces:
                open_braces[-1] += {"{": 1, "}": -1}.get(token, 0)
            found.append((kind, token))
    return found


def _end_of_text(source, place):
    """Where the text of a template ends: at its ${ or at the closing sign."""
    while source[place] != "`" and not source.startswith("${", place):
        place += 2 if source[place] == "\\" else 1
    return place


def used_names(source):
    """Names but for imports, properties after a dot and keys of objects."""
    tokens = [TEXT, *tokens_of(re.sub(r"^import .*", "", source, flags=re.MULTILINE)), TEXT]
    return {
        token
        for (_, before), (kind, token), (_, after) in zip(tokens, tokens[1:], tokens[2:], strict=False)
        if kind == "name" and before not in (".", "?.") and not (before in ("{", ",") and after == ":")
    }
