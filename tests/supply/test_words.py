"""The words of the field: one word for one thing, and the one that readers of Prometheus, Kubernetes and Linux know."""

import ast
import re
import subprocess
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
}
# Refused in the names of modules, classes and functions: they say nothing there.
REFUSED_IN_NAMES = {"own", "place", "said", "whose"}
FORMS = {form: word for word in REFUSED for form in (word, f"{word}s", f"{word}ed", f"{word}ing")}
# What the field does say.
ALLOWED = re.compile(r"\blook(s|ed|ing)?[- ](up|like)\b|\blook-?ups?\b", re.IGNORECASE)
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
DEFINED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def texts():
    """Every text file of the project that people write, by its path."""
    listed = subprocess.run(["git", "ls-files", *WRITTEN], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in map(ROOT.joinpath, listed.stdout.splitlines()):
        if path.suffix in SUFFIXES and path != Path(__file__) and path.is_file():
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def refused(line):
    return [word for word in map(str.lower, WORD.findall(ALLOWED.sub("", line))) if word in FORMS]


def names_in(name, text):
    """The names of a module and of what it defines; a test's own name is a sentence."""
    names = {Path(name).stem} | {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, DEFINED)}
    return {one for one in names if not (name.startswith("tests/") and one.startswith("test_"))}


def test_words_that_the_field_does_not_use_are_not_used():
    found = [
        f"{name}:{number}: {word}: say {REFUSED[FORMS[word]]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for word in refused(line)
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


def test_the_lint_finds_each_word_in_code_and_prose():
    for word in REFUSED:
        for line in (f"def first_{word}(): ...", f"The {word}s are here.", f"class Next{word.capitalize()}:"):
            assert refused(line)
    assert not refused("it looks up what looks like it")
    assert {"read_own", "Whose"} <= names_in("exporter/x.py", "class Whose: ...\ndef read_own(): ...")
