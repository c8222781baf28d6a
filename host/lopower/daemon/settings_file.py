"""The TOML file: read strictly, with the line of whatever is wrong; and written, every setting commented."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Final

from lopower.daemon.settings import BY_NAME, SETTINGS, Setting, SettingsError, parse_item

# A settings file has some hundred lines; what is larger is another file.
MAX_FILE_BYTES: Final = 1 << 20
_TYPES: Final = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a table",
}


def read(path: Path, *, must_exist: bool) -> dict[str, Any] | None:
    """The file's settings, by name; None if there is no file and none has to be there.

    Raises:
        SettingsError: it cannot be read, is no TOML, has an unknown key, or a value that is not permitted.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if must_exist:
            raise SettingsError(f"{path}: there is no such file; `lopower config init` writes one") from None
        return None
    except NotADirectoryError:
        if must_exist:
            raise SettingsError(f"{path}: there is no such file") from None
        return None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise SettingsError(f"{path}: larger than {MAX_FILE_BYTES} bytes, so it is no settings file")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}:{line}: not UTF-8, which TOML demands") from None
    return parse(text, path)


def parse(text: str, path: Path) -> dict[str, Any]:
    """As `read`, of a file's text."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The message ends "(at line 3, column 7)", or "(at end of document)".
        reason, _, position = str(error).removesuffix(")").rpartition(" (at ")
        match = re.match(r"line (\d+), column (\d+)", position)
        where = f"{path}:{match[1]}:{match[2]}" if match else str(path)
        raise SettingsError(f"{where}: not valid TOML: {reason or error}") from None
    found: dict[str, Any] = {}
    for key, value in document.items():
        where = f"{path}:{_line_of(text, key)}: {key}"
        setting = BY_NAME.get(key)
        if setting is None:
            raise SettingsError(f"{where}: {_unknown(key)}")
        found[key] = _value(setting, value, where, path)
    return found


def template() -> str:
    """A file with every setting, commented out, its default or an example, and what it does."""
    lines = [
        "# Settings of lopower. A flag (--state-dir) or a variable (LOPOWER_STATE_DIR) beats what stands here.",
        "# Settings marked [reload] take effect with `systemctl reload lopower` (SIGHUP), the others with a restart.",
    ]
    for setting in SETTINGS:
        mark = " [reload]" if setting.reloadable else ""
        lines += ["", *_wrap(setting.help + mark), f"#{setting.name} = {_toml(setting)}"]
    return "\n".join(lines) + "\n"


def _value(setting: Setting, value: Any, where: str, path: Path) -> Any:
    if setting.many:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SettingsError(f"{where}: must be a list of texts, such as {_toml(setting)}, not {_describe(value)}")
        return tuple(_one(setting, item, where, path) for item in value)
    if setting.kind == "switch":
        if not isinstance(value, bool):
            raise SettingsError(f"{where}: must be true or false, without quotes, not {_describe(value)}")
        return value
    if setting.kind == "integer":
        if not isinstance(value, int) or isinstance(value, bool):
            raise SettingsError(
                f"{where}: must be a number without quotes, such as {_toml(setting)}, not {_describe(value)}"
            )
        return _one(setting, str(value), where, path)
    if not isinstance(value, str):
        raise SettingsError(f"{where}: must be a text in quotes, such as {_toml(setting)}, not {_describe(value)}")
    return _one(setting, value, where, path)


def _one(setting: Setting, text: str, where: str, path: Path) -> Any:
    value = parse_item(setting, text, where)
    return path.absolute().parent / value if setting.kind == "path" else value


def _describe(value: object) -> str:
    if isinstance(value, list):
        odd = next((item for item in value if not isinstance(item, str)), None)
        return f"a list with {odd!r} in it" if odd is not None else "a list"
    kind = _TYPES.get(type(value), type(value).__name__)
    return kind if isinstance(value, dict) else f"{value!r} ({kind})"


def _unknown(key: str) -> str:
    close = difflib.get_close_matches(key, BY_NAME, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(BY_NAME)}"
    return f"there is no such setting; {hint}"


def _line_of(text: str, key: str) -> int:
    """The line on which a top-level key stands, bare, quoted, or as a table's name; 1 if it is written otherwise."""
    name = re.escape(key)
    pattern = re.compile(rf"""^\s*(?:\[+\s*)?["']?{name}["']?\s*(?:=|\.|\])""")
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.match(line):
            return number
    return 1


def _toml(setting: Setting) -> str:
    """The setting's default, else its example, as TOML."""
    text = setting.default or setting.example
    if setting.kind in ("integer", "switch"):
        return text
    if setting.many:
        return "[" + ", ".join(f'"{item}"' for item in text.split()) + "]"
    return f'"{text}"'


def _wrap(sentence: str) -> list[str]:
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(sentence, 116)]
