"""`lopower completion`: scripts for bash, zsh and fish, made from the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from lopower.cli import output
from lopower.cli.errors import OK

SHELLS: Final = ("bash", "zsh", "fish")


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "Print a completion script. bash: source <(lopower completion bash) in ~/.bashrc. "
        "zsh: the same in ~/.zshrc. fish: lopower completion fish > ~/.config/fish/completions/lopower.fish"
    )
    parser.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from lopower.cli.main import build_parser

    words = dict(_walk(build_parser(), ()))
    output.say({"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell](words).rstrip("\n"))
    return OK


class _Node:
    """What may follow a command: subcommands and options with their help, and whether a device's name does."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.commands: dict[str, str] = {}
        self.options: dict[str, str] = {}
        self.named = False
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                self.commands = {choice.dest: choice.help or "" for choice in action._choices_actions}
            elif action.option_strings:
                self.options[action.option_strings[-1]] = action.help or ""
            elif action.dest == "name" and action.nargs != "?":
                self.named = True
            elif action.choices is not None:
                self.commands = {str(choice): "" for choice in action.choices}


def _walk(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], _Node]]:
    yield path, _Node(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from _walk(child, (*path, name))


def _cases(words: dict[tuple[str, ...], _Node]) -> str:
    """The arms of a shell's `case`: the commands given so far, and what may follow."""
    lines = []
    for path, node in words.items():
        text = " ".join((*node.commands, *node.options))
        names = "; names=1" if node.named else ""
        lines.append(f'    "{" ".join(path)}") offered="{text}"{names} ;;')
    return "\n".join(lines)


_NAMES: Final = "lopower device list --quiet 2>/dev/null"


def _known(words: dict[tuple[str, ...], _Node]) -> str:
    return " ".join(sorted({name for node in words.values() for name in node.commands}))


def _bash(words: dict[tuple[str, ...], _Node]) -> str:
    return f"""# bash completion for lopower
_lopower() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" given="" offered="" names="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case " {_known(words)} " in *" $word "*) given="${{given:+$given }}$word" ;; esac
  done
  case "$given" in
{_cases(words)}
  esac
  [ -n "$names" ] && [[ "$current" != -* ]] && offered="$({_NAMES})"
  COMPREPLY=($(compgen -W "$offered" -- "$current"))
}}
complete -o default -F _lopower lopower
"""


def _zsh(words: dict[tuple[str, ...], _Node]) -> str:
    return f"""#compdef lopower
_lopower() {{
  local given="" offered="" names="" word
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    case " {_known(words)} " in *" $word "*) given="${{given:+$given }}$word" ;; esac
  done
  case "$given" in
{_cases(words)}
  esac
  [[ -n "$names" && "$PREFIX" != -* ]] && offered="$({_NAMES})"
  compadd -- ${{=offered}}
}}
compdef _lopower lopower
"""


def _fish(words: dict[tuple[str, ...], _Node]) -> str:
    lines = ["# fish completion for lopower", "complete -c lopower -f"]
    for path, node in words.items():
        condition = "; and ".join(f"__fish_seen_subcommand_from {name}" for name in path) or "__fish_use_subcommand"
        if path and node.commands:
            condition += f"; and not __fish_seen_subcommand_from {' '.join(node.commands)}"
        for name, text in node.commands.items():
            lines.append(f"complete -c lopower -n '{condition}' -a {name} -d {_quoted(text)}")
        if node.named:
            lines.append(f"complete -c lopower -n '{condition}' -a '({_NAMES})'")
        for option, text in node.options.items():
            if option.startswith("--"):
                lines.append(f"complete -c lopower -n '{condition}' -l {option[2:]} -d {_quoted(text)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("%%", "%") + "'"
