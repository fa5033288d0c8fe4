"""The words of the field: one word for one thing, and the one that readers of Prometheus, Kubernetes and Linux know."""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
WRITTEN = (
    "exporter",
    "tests",
    "docs",
    "chart",
    "bench",
    ".ci",
    "README.md",
    "CONTRIBUTING.md",
    "Makefile",
    "pyproject.toml",
)
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".c", ".js", ".css", ".html", ".tpl", ".txt", ""}
# Refused anywhere, in identifiers and in prose, each with the word that the field has for it.
REFUSED = {
    "look": "snapshot, or what is done: read, compare, inspect, see",
    "room": "package, or space",
    "door": "access, authentication, authorization",
    "stranger": "an unauthenticated or unknown client",
    "turnstile": "queue, throttle",
    "hush": "throttle",
    "settled": "decided, live, unchanged",
    "anew": "again; recreate, reset, restart",
    "afresh": "again; recreate, reset, restart",
    "younger": "newer",
    "dawdle": "a slow client",
    "sheltered": "protected from eviction",
    "newcomer": "a new client or connection",
}
# Refused phrases, each with the field's.
PHRASES = {
    "added up": "summed",
    "goes before": "overrides",
    "go before those": "override those",
    "may come in": "is allowed, is authorized",
    "turned away": "rejected",
}
# Limits are called MAX and MIN.
LIMITS = re.compile(r"\b_?(?:MOST|LARGEST|LONGEST|LEAST|SMALLEST|SHORTEST|FEWEST)(?:_[A-Z_]+)?\b")
# Refused in the names of modules, classes and functions: they say nothing there.
REFUSED_IN_NAMES = {"own", "place", "said", "whose"}
FORMS = {form: word for word in REFUSED for form in (word, f"{word}s", f"{word}ed", f"{word}ing")}
# What the field does say.
ALLOWED = re.compile(
    r"(?<![a-z])look(s|ed|ing)?[-_ ]([a-z]+ ){0,2}(up|like)(?![a-z])|(?<![a-z])look-?ups?(?![a-z])", re.IGNORECASE
)
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
# Modules with one name in several packages are about one thing.
DATA = {
    "bundle",
    "check",
    "conntrack",
    "counters",
    "endpoint_status",
    "endpoints",
    "map_fill",
    "maps",
    "nic",
    "pins",
    "rules",
    "scrape",
    "trace",
}
# Two things that have the same name in the field: Calico's routes and those of HTTP, a stream of a map's entries and a
# connection's.
SAME_WORD = {"routes", "stream"}
DEFINED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def texts():
    """Every text file of the project that people write, by its path."""
    listed = subprocess.run(["git", "ls-files", *WRITTEN], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in map(ROOT.joinpath, listed.stdout.splitlines()):
        if path.suffix in SUFFIXES and path != Path(__file__) and path.is_file():
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def refused(line):
    """What a line should say otherwise: each word, phrase or name with what to say."""
    words = [word for word in map(str.lower, WORD.findall(ALLOWED.sub("", line))) if word in FORMS]
    found = [(word, REFUSED[FORMS[word]]) for word in words]
    found += [(phrase, instead) for phrase, instead in PHRASES.items() if phrase in line.lower()]
    return found + [(name, "MAX_… or MIN_…") for name in LIMITS.findall(line)]


def names_in(name, text):
    """The names of a module and of what it defines; a test's own name is a sentence."""
    names = {Path(name).stem} | {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, DEFINED)}
    return {one for one in names if not (name.startswith("tests/") and one.startswith("test_"))}


def test_words_that_the_field_does_not_use_are_not_used():
    found = [
        f"{name}:{number}: {word}: say {instead}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for word, instead in refused(line)
    ]
    assert not found, "\n".join(found)


def test_names_of_modules_classes_and_functions_say_what_they_are():
    found = [
        f"{name}: {one}: {word} says nothing in a name"
        for name, text in texts()
        if name.endswith(".py")
        for one in names_in(name, text)
        for word in {word.lower() for word in WORD.findall(one)} & REFUSED_IN_NAMES
    ]
    assert not found, "\n".join(found)


def test_only_a_datum_has_several_modules_of_one_name():
    """A datum keeps its file name through the packages; another module of that name would be taken for its part."""
    names = Counter(Path(name).stem for name, _ in texts() if name.startswith("exporter/") and name.endswith(".py"))
    assert {name for name, times in names.items() if times > 1} <= DATA | SAME_WORD | {"__init__"}


def test_the_lint_finds_each_word_in_code_and_prose():
    for word in REFUSED:
        for line in (f"def first_{word}(): ...", f"The {word}s are here.", f"class Next{word.capitalize()}:"):
            assert refused(line)
    for line in (*PHRASES, "_MOST_BYTES = 1", "LONGEST = 2"):
        assert refused(line)
    assert not refused("it looks up what looks like it, looks a key up, and calls self._look_up")
    assert not refused("almost all of them, the largest first; MAX_BYTES, not LEASTWISE")
    assert {"read_own", "Whose"} <= names_in("exporter/x.py", "class Whose: ...\ndef read_own(): ...")
