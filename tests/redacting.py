"""Redacted bundles, and the output of commands in a form in which only names can differ."""

import json
import re

from exporter.archive import write_archive
from exporter.snapshot.redaction import Redaction

KEY = b"a key"
_WORDS = re.compile(r"[\s,;{}\[\]]+")
_RULE = re.compile(r"[-─]{3,}")
_HASHED = re.compile(r'rule_id:\\?"[^"]*"')
_WORD = re.compile(r"%[0-9A-Fa-f]{2}|[A-Za-z0-9](?:[\w-]*[A-Za-z0-9])?")


class Redacted:
    """A redacted bundle: the files of it and of the one before, and the renaming."""

    def __init__(self, members, folder, key=KEY):
        redaction = Redaction(members, key)
        self.members = redaction.redacted()
        self.names = redaction.names
        self.before, self.after = folder / "before.tar.xz", folder / "after.tar.xz"
        for path, content in ((self.before, members), (self.after, self.members)):
            with path.open("wb") as file:
                write_archive(content, file)

    def renamed(self, text):
        """Output of the bundle before, with the new names."""
        return self.names.in_text(text)

    def in_words(self, text):
        """Output of the redacted bundle; what is a name and a word of the program's is a name, as in the other."""
        return _WORD.sub(lambda found: self.names.replaced.get(found[0], found[0]), text)

    def same(self, run, *command, earlier=None):
        """Asserts that a command prints the same of both up to names, and their order and widths. It also gets the
        `earlier` bundle of the node, to compare.
        """
        before, after = zip(*((one.before, one.after) for one in (earlier, self) if one), strict=True)
        shown = run(*command, *_bundles(before))
        redacted = run(*(self.renamed(str(one)) for one in command), *_bundles(after))
        assert shown.exit_code == redacted.exit_code
        assert shown.output
        for one, other in ((shown.stdout, redacted.stdout), (shown.stderr, redacted.stderr)):
            assert unordered(self.renamed(one)) == unordered(self.in_words(other))
        return redacted.stdout


def _bundles(files):
    return [word for file in files for word in ("--bundle", file)]


def unordered(text):
    """JSON or lines, without an order."""
    text = _HASHED.sub("", text)
    try:
        return _sorted(json.loads(text))
    except ValueError:
        lines = [line for line in text.splitlines() if "duration_seconds" not in line]
        return sorted(sorted(_WORDS.split(_RULE.sub("", line).strip())) for line in lines)


def _sorted(value):
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return sorted(map(_sorted, value), key=json.dumps)
    return sorted(_WORDS.split(value)) if isinstance(value, str) else value
