"""Completion scripts for bash, zsh and fish, and the program's side of their protocol.

click's own scripts lose the text after the cursor and the `=` and `:` in a word, and need compinit in zsh. These pass
the line as typed and read one candidate per line: kind, word and help, separated by tabs.
"""

import logging
import os
from typing import Any

from click.shell_completion import CompletionItem, ShellComplete, add_completion_class, split_arg_string

from exporter.printable import printable

# bash replaces only the part of the word after the last `=` or `:`, which is its second argument.
_BASH = r"""
%(complete_func)s() {
    local kind word help
    COMPREPLY=()
    while IFS=$'\t' read -r kind word help; do
        case $kind in
            plain) COMPREPLY+=("$word") ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done <<< "$(%(complete_var)s=bash_complete COMP_BEFORE="${COMP_LINE:0:COMP_POINT}" \
        COMP_AFTER="${COMP_LINE:COMP_POINT}" COMP_REPLACED="$2" "${1/#\~/$HOME}" 2>/dev/null)"
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = r"""#compdef %(prog_name)s
%(complete_func)s() {
    local -a bare helped
    local kind word help
    while IFS=$'\t' read -r kind word help; do
        case $kind in
            plain)
                if [[ -n $help ]]; then
                    helped+=("${word//:/\\:}:$help")
                else
                    bare+=("$word")
                fi ;;
            file|dir)
                [[ $PREFIX == --* ]] && compset -P 1 '*='
                if [[ $kind == dir ]]; then _files -/; else _files; fi
                return ;;
        esac
    done <<< "$(%(complete_var)s=zsh_complete COMP_BEFORE="${(j: :)words[1,CURRENT-1]} $PREFIX" \
        COMP_AFTER="$SUFFIX ${(j: :)words[CURRENT+1,-1]}" ${~words[1]} 2>/dev/null)"
    (( $#helped )) && _describe -V flag helped
    (( $#bare )) && compadd -V value -a bare
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
    compdef %(complete_func)s %(prog_name)s
fi
"""

# fish does not pass the text after the cursor.
_FISH = r"""
function %(complete_func)s
    set -l program (string match -v '*=*' -- (commandline -opc))[1]
    for line in (env %(complete_var)s=fish_complete COMP_BEFORE=(commandline -cp | string collect) \
            (string replace -r '^~' $HOME -- $program) 2>/dev/null)
        set -l item (string split \t -- $line)
        switch $item[1]
            case plain
                string join \t -- $item[2..-1]
            case file dir
                set -l flag (string match -r '^--[^=]*=' -- $item[2])
                for path in (__fish_complete_path (string replace -r '^--[^=]*=' '' -- $item[2]))
                    printf "%%s\n" "$flag$path"
                end
        end
    end
end
complete --no-files --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


class _Completion(ShellComplete):
    """Parses the line before and after the cursor as the scripts pass it; any error means no candidates."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """See `ShellComplete`."""
        # The extra letter distinguishes an unfinished word from a finished one.
        *words, typed = split_arg_string(os.environ["COMP_BEFORE"] + "x")
        while "=" in words[0]:
            words.pop(0)  # variables before the command
        self._typed = typed[:-1]
        command, *given = words[1:] or [""]
        # The order of flags does not matter: those after the cursor can go before it.
        return [*([command, *_after_cursor()] if command else []), *given], self._typed

    def format_completion(self, item: CompletionItem) -> str:
        """See `ShellComplete`."""
        name, equals, _ = self._typed.partition("=")
        word = f"{name}={item.value}" if equals and name.startswith("--") else str(item.value)
        return f"{item.type}\t{self._shortened(word)}\t{printable(item.help or '')}".rstrip("\t")

    def complete(self) -> str:
        """See `ShellComplete`."""
        logging.disable()
        try:
            return super().complete()
        except Exception:  # noqa: BLE001  completion must never print an error
            return ""

    def _shortened(self, word: str) -> str:
        return word


class _Bash(_Completion):
    name = "bash"
    source_template = _BASH

    def _shortened(self, word: str) -> str:
        return word.removeprefix(self._typed.removesuffix(os.environ.get("COMP_REPLACED", "")))


class _Zsh(_Completion):
    name = "zsh"
    source_template = _ZSH


class _Fish(_Completion):
    name = "fish"
    source_template = _FISH


def _after_cursor() -> list[str]:
    after = os.environ.get("COMP_AFTER", "")
    words = split_arg_string("x" + after)[1:]  # the letter stands for the rest of the word at the cursor
    return words[: words.index("--")] if "--" in words else words


def register_completion() -> None:
    """Replaces click's completion for these shells."""
    classes: tuple[type[Any], ...] = (_Bash, _Zsh, _Fish)
    for one in classes:
        add_completion_class(one)
