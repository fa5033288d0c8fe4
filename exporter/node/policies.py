"""The policy programs of this node, from Calico's policy debug files.

Reads and parses the files and keeps only the parsed programs; a file is parsed again only when it changed.
Equal tiers of different files are stored once, since the pods of a namespace share them.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exporter.calico.policy_comments import parse_policy_file
from exporter.calico.policy_debug import PolicyProgram, Tier, parse_file_name
from exporter.calico.policy_file import MAX_BYTES, PolicyDebugError
from exporter.node.files import Folder, Unparsable, display_path, parse_folder

# None stands for a file whose name is not a policy debug file's.
Policies = Folder[PolicyProgram | None]


def read_policies(path: Path, before: Policies | None = None) -> Policies:
    """The policy programs in the folder `path`; where none has changed since `before`, the identical `files`.

    Raises `NodeError` when the folder cannot be listed.
    """
    now = parse_folder(path, _parser(before), MAX_BYTES, before)
    return replace(now, files=before.files) if before and now.files == before.files else now


def policies_of(folder: Folder[bytes]) -> Policies:
    """The policy programs in a folder with unparsed contents, as in a bundle."""
    parse = _parser(None)
    files: dict[str, PolicyProgram | None] = {}
    problems, unread = list(folder.problems), list(folder.unread)
    for name, content in folder.files.items():
        try:
            files[name] = parse(name, content)
        except Unparsable as error:
            problems.append(f"{display_path(name)} was left out: {error}")
            unread.append(name)
    return Folder(folder.present, files, tuple(problems), {}, tuple(unread))


def _parser(before: Policies | None) -> Callable[[str, bytes], PolicyProgram | None]:
    known: dict[Tier, Tier] = {}

    def parse(name: str, content: bytes) -> PolicyProgram | None:
        about = parse_file_name(name)
        if about is None:
            return None
        if not known and before:
            known.update({tier: tier for one in before.files.values() if one for tier in one.tiers})
        try:
            program = parse_policy_file(about, content)
        except PolicyDebugError as error:
            raise Unparsable(str(error)) from error
        tiers = tuple(known.setdefault(tier, tier) for tier in program.tiers)
        return replace(program, tiers=tiers)

    return parse
