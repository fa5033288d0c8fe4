"""Checks values against the interfaces and enumerations of a TypeScript declaration file.

Says what is missing, unknown, or of another type. It knows as much of the language as @grafana/schema uses.
"""

import re

_TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|[\w.]+|[{}()<>\[\]|:;?,=]")
_PRIMITIVE = {"string": str, "number": (int, float), "boolean": bool}


class Types:
    """The types that a file exports, by name."""

    def __init__(self, text):
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        text = re.sub(r"(?m)^(import|export declare const) .*$", "", text)
        self._tokens = _TOKEN.findall(text)
        self.types = {}
        while self._tokens:
            self._next("export")
            kind = self._next()
            kind = self._next() if kind == "declare" else kind
            name = self._next()
            if kind == "type":
                self._next("=")
                self.types[name] = self._union()
                self._next(";")
            else:
                self.types[name] = self._enum(name) if kind == "enum" else self._fields()

    def problems(self, value, kind, where=""):
        """What is wrong with a value of this type, each with its place."""
        if isinstance(kind, dict):
            return list(self._problems_of_object(value, kind, where))
        if isinstance(kind, tuple):
            name, *arguments = kind
            if name == "union":
                found = [self.problems(value, one, where) for one in arguments]
                return min(found, key=len)
            if name == "Array":
                several = value if isinstance(value, list) else [None]
                return [
                    each for n, one in enumerate(several) for each in self.problems(one, arguments[0], f"{where}[{n}]")
                ]
            return [] if isinstance(value, dict) else [f"{where}: no {name}"]  # Record
        if kind in self.types:
            return self.problems(value, self.types[kind], where)
        return [] if self._is(value, kind) else [f"{where}: {value!r} is no {kind}"]

    def _problems_of_object(self, value, fields, where):
        if not isinstance(value, dict):
            yield f"{where}: no object"
            return
        yield from (f"{where}.{name}: unknown" for name in value.keys() - fields.keys())
        for name, (needed, kind) in fields.items():
            if name in value:
                yield from self.problems(value[name], kind, f"{where}.{name}")
            elif needed:
                yield f"{where}.{name}: missing"

    def _is(self, value, kind):
        if kind in ("unknown", "any"):
            return True
        if kind == "null":
            return value is None
        if kind in _PRIMITIVE:
            return isinstance(value, _PRIMITIVE[kind]) and (kind == "boolean") == isinstance(value, bool)
        if "." in kind and kind.partition(".")[0] in self.types:  # a member of an enumeration
            return value == self.types[kind]
        return value == (kind.strip("'\"") if kind[0] in "'\"" else float(kind))

    def _next(self, expected=None):
        token = self._tokens.pop(0)
        assert expected in (None, token), (expected, token, self._tokens[:9])
        return token

    def _enum(self, name):
        members = []
        self._next("{")
        while self._tokens[0] != "}":
            member = self._next()
            self._next("=")
            members.append(self._next())
            self.types[f"{name}.{member}"] = members[-1]
            if self._tokens[0] == ",":
                self._next()
        self._next("}")
        return ("union", *members)

    def _fields(self):
        fields = {}
        self._next("{")
        while self._tokens[0] != "}":
            name = self._next()
            optional = self._tokens[0] == "?" and self._next()
            self._next(":")
            fields[name] = (not optional, self._union())
            self._next(";")
        self._next("}")
        return fields

    def _union(self):
        kinds = [self._one()]
        while self._tokens[0] == "|":
            self._next()
            kinds.append(self._one())
        return kinds[0] if len(kinds) == 1 else ("union", *kinds)

    def _one(self):
        if self._tokens[0] == "{":
            return self._fields()
        token = self._next()
        if token == "(":
            kind = self._union()
            self._next(")")
            return kind
        if self._tokens[0] != "<":
            return token
        self._next("<")
        arguments = [self._union()]
        while self._tokens[0] == ",":
            self._next()
            arguments.append(self._union())
        self._next(">")
        return (token, *arguments)
