"""Shorter names for the compiled package: each name that MicroPython does not know already costs heap for good.

Names of attributes, methods, functions, classes and globals are replaced, one by one over the whole package, by names
that every MicroPython has in flash (`ROM`), which cost nothing; arguments likewise, by position. Two names may get the
same replacement if no class and no module has both. What the outside sees keeps its name: what starts with no
underscore in `__init__` and `sockets`, names that Python or a module of MicroPython has too, strings, modules.
"""

from __future__ import annotations

import _thread
import array
import ast
import asyncio
import builtins
import errno
import hashlib
import io
import json
import os
import re
import select
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import constants  # noqa: E402

ROM = (
    "ArithmeticError AssertionError AttributeError BaseException EOFError Ellipsis Exception GeneratorExit ImportError "
    "IndentationError IndexError KeyError KeyboardInterrupt LookupError MemoryError NameError NoneType "
    "NotImplementedError OSError OverflowError RuntimeError StopIteration SyntaxError SystemExit TypeError ValueError "
    "ZeroDivisionError abs all any append args bool builtins bytearray bytecode bytes callable chr classmethod clear "
    "close copy count dict dir divmod end endswith eval exec extend find format from_bytes get getattr globals "
    "hasattr hash id index insert int isalpha isdigit isinstance islower isspace issubclass isupper items iter join key "
    "keys len list little locals lower lstrip main map next object open ord pop popitem pow print range "
    "read readinto readline remove replace repr reverse rfind rindex round rsplit rstrip self send sep set setattr "
    "setdefault sort sorted split start startswith staticmethod step stop str strip sum super throw to_bytes tuple type "
    "update upper value values write zip"
).split()
"""Names that a .mpy file refers to by number (MicroPython's py/makeqstrdata.py, `static_qstr_list`), but those that the compiler treats in a way of its own."""

OPEN = ("__init__", "sockets")
"""Modules whose public names programs use."""

_OTHERS = set(
    "ticks_ms sleep_ms ipoll mem_free mem_alloc schedule Timer RTC WLAN STA_IF country hostname active disconnect "
    "isconnected status ifconfig init deinit reset period callback network machine urandom viper register gmtime pump "
    "modules implementation usocket micropython deepsleep memory reset_cause config ipconfig datetime "
    "public_key".split()  # the last one: of a board that makes its key when it is flashed, before lopower has started
).union(*(
    dir(thing)
    for thing in (
        _thread, _thread.allocate_lock(), array.array, asyncio, builtins, bytes, bytearray, dict, errno, hashlib, hashlib.sha256(), int, io.IOBase, json,
        list, memoryview, os, select, select.poll(), set, socket, socket.socket, str, sys, time, tuple, io.BytesIO,
    )
))  # fmt: skip
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
_BY_NAME = ("hasattr", "getattr", "setattr", "delattr")


def _bindings(body: list[ast.stmt]) -> set[str]:
    """Names that statements bind in their own scope."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
            return
        if isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        for child in ast.iter_child_nodes(node):
            visit(child)

    for statement in body:
        visit(statement)
    found.discard("*")
    return found


def _globals(tree: ast.Module) -> set[str]:
    """Names of a module: what it binds, and what its functions bind as `global`."""
    found = _bindings(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found.update(node.names)
    return found


def _namespaces(modules: dict[str, ast.Module]) -> Iterator[set[str]]:
    """The names that one module, the instances of one class, or one `Record` have together."""
    loose: set[str] = set()  # attributes that are set from outside, and that no class and no record declares
    declared: set[str] = set()
    for tree in modules.values():
        yield _globals(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names = _bindings(node.body) | _set_on("self", node)
            elif isinstance(node, ast.FunctionDef):
                names = set().union(*(_set_on(variable, node) for variable in _records(node)))
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                loose.add(node.attr)
                continue
            else:
                continue
            declared |= names
            yield names
    yield loose - declared


def _set_on(variable: str, node: ast.AST) -> set[str]:
    """Attributes of what has this name that statements within `node` mention."""
    return {
        inner.attr
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == variable
    }


def _records(function: ast.FunctionDef) -> set[str]:
    """Variables that a function makes a `Record` of."""
    return {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "Record"
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def renaming(sources: dict[str, str]) -> dict[str, str]:
    """The replacements for a package, whose modules' sources are given by name."""
    modules = {name: ast.parse(source) for name, source in sources.items()}
    kept = set(modules) | _OTHERS | set(ROM)
    for name in OPEN:
        if name in modules:
            kept.update(found for found in _globals(modules[name]) if not found.startswith("_"))
    unique: set[str] = set()  # as arguments by keyword or asked for by name they could meet any other
    keywords: set[str] = set()
    parameters: set[str] = set()
    used = _used(sources)
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and name in OPEN:
                kept.update(found for found in _bindings(node.body) if not found.startswith("_"))
            elif isinstance(node, ast.Import):  # modules of MicroPython
                kept.update(alias.name for alias in node.names)
            elif isinstance(node, ast.keyword) and node.arg:
                keywords.add(node.arg)
            elif isinstance(node, ast.arg):
                parameters.add(node.arg)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _BY_NAME:
                unique.update(value.value for value in node.args[1:2] if isinstance(value, ast.Constant))
    unique |= keywords & parameters
    kept |= keywords - parameters  # of functions that are not the package's
    together: dict[str, set[str]] = defaultdict(set)
    spaces = list(_namespaces(modules))
    beside: dict[str, set[str]] = defaultdict(set)  # a global must not hide a builtin that its module uses
    for tree in modules.values():
        mentioned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for name in _globals(tree):
            beside[name] |= mentioned
    for space in spaces:
        names = {name for name in space if name not in kept and not name.startswith("__")}
        for name in names:
            together[name] |= names
    arguments = _arguments(used)
    attributes = _used(sources, builtins_too=False)
    # Not what takes names as texts: the texts in a call of it are renamed, too.
    free = [name for name in ROM if name not in attributes and name not in arguments and name not in _BY_NAME]
    replacements: dict[str, str] = {}
    for name in sorted(together, key=lambda name: (name not in unique, -len(together[name]), name)):
        neighbours = set(together) if name in unique else together[name] | (unique & set(together))
        taken = {replacements.get(neighbour) for neighbour in neighbours}
        supply = [*free, *(f"n{number}" for number in range(1000))]
        replacements[name] = next(
            candidate for candidate in supply if candidate not in taken and candidate not in beside[name]
        )
    return replacements


def _arguments(used: set[str]) -> list[str]:
    """What arguments are called, by their position."""
    return [name for name in reversed(ROM) if name not in used and name not in dir(builtins)][:8]


class Renamer(ast.NodeTransformer):
    """Applies replacements. `inside`: to a module of the package, arguments and all; else to a program that uses it."""

    def __init__(
        self, replacements: dict[str, str], tree: ast.Module, *, inside: bool, sources: dict[str, str]
    ) -> None:
        self._replacements = replacements
        self._inside = inside
        self._globals = _globals(tree) if inside else set()
        self._scopes: list[dict[str, str]] = []
        self._arguments = _arguments(_used(sources)) if inside else []
        self._by_keyword = _by_keyword(tuple(sources.items()))
        self._number = 0

    def _new(self, name: str) -> str:
        return self._replacements.get(name, name)

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: N802
        for scope in reversed(self._scopes):
            if node.id in scope:
                node.id = scope[node.id]
                return node
        if node.id in self._globals:
            node.id = self._new(node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:  # noqa: N802
        self.generic_visit(node)
        node.attr = self._new(node.attr)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:  # noqa: N802
        node.names = [self._new(name) for name in node.names]
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        self.generic_visit(node)
        if node.arg and (self._inside or node.arg in self._by_keyword):
            node.arg = self._new(node.arg)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _BY_NAME:
            for value in node.args[1:2]:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    value.value = self._new(value.value)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:  # noqa: N802
        for alias in node.names:
            bound = alias.asname or alias.name
            local = next((scope[bound] for scope in reversed(self._scopes) if bound in scope), None)
            target = local or (self._new(bound) if self._inside else bound)
            if node.level or (node.module or "").partition(".")[0] in ("lopower", "lopower_device"):
                alias.name = self._new(alias.name)
            alias.asname = target if target != alias.name else None
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:  # noqa: N802
        for alias in node.names:
            bound = alias.asname or alias.name
            local = next((scope[bound] for scope in reversed(self._scopes) if bound in scope), None)
            target = local or (self._new(bound) if self._inside else bound)
            alias.asname = target if target != alias.name else None
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:  # noqa: N802
        if node.name and self._scopes and node.name in self._scopes[-1]:
            node.name = self._scopes[-1][node.name]
        self.generic_visit(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:  # noqa: N802
        if not self._scopes or not self._inside:
            node.name = self._new(node.name) if self._inside else node.name
        node.bases = [self.visit(base) for base in node.bases]
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        for statement in node.body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                statement.name = self._new(statement.name)
            elif isinstance(statement, ast.Assign):
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        target.id = self._new(target.id)
        node.body = [self._function(s) if isinstance(s, _FUNCTIONS) else s for s in node.body]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: N802
        for scope in reversed(self._scopes):
            if node.name in scope:
                node.name = scope[node.name]
                break
        else:
            if self._inside:
                node.name = self._new(node.name)
        return self._function(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:  # noqa: N802
        return self._function(node)

    def _function(self, node):
        """Arguments get names by position, locals names of their own; those by keyword the package's."""
        arguments = node.args
        for default in (*arguments.defaults, *(d for d in arguments.kw_defaults if d)):
            self.visit(default)
        if hasattr(node, "decorator_list"):
            node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        positional = [*arguments.posonlyargs, *arguments.args]
        scope: dict[str, str] = {}
        if not self._inside:
            for argument in arguments.kwonlyargs:
                scope[argument.arg] = argument.arg
                if argument.arg in self._replacements:
                    scope[argument.arg] = argument.arg = self._replacements[argument.arg]
            self._scopes.append(scope)
            self._body(node)
            self._scopes.pop()
            return node
        public = getattr(node, "name", "_")[0] != "_" and len(arguments.defaults) > 0
        for number, argument in enumerate([*positional, *filter(None, (arguments.vararg, arguments.kwarg))]):
            if public and argument.arg != "self":
                new = argument.arg
            else:
                new = self._arguments[number] if number < len(self._arguments) else f"n{number}"
            if self._scopes and new in {name for outer in self._scopes for name in outer.values()}:
                new = self._local()
            scope[argument.arg] = argument.arg = new
        for argument in arguments.kwonlyargs:
            scope[argument.arg] = argument.arg = self._new(argument.arg)
        body = node.body if isinstance(node.body, list) else []
        outer = {name for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names}
        for name in _bindings(body) - outer:
            scope.setdefault(name, self._local())
        self._scopes.append(scope)
        self._body(node)
        self._scopes.pop()
        return node

    def _body(self, node) -> None:
        if isinstance(node.body, list):
            node.body = [self.visit(statement) for statement in node.body]
        else:
            node.body = self.visit(node.body)

    def _local(self) -> str:
        self._number += 1
        return f"v{self._number}"

    def _comprehension(self, node):
        scope = {}
        if self._inside:
            for generator in node.generators:
                for inner in ast.walk(generator.target):
                    if isinstance(inner, ast.Name):
                        scope[inner.id] = self._local()
        self._scopes.append(scope)
        self.generic_visit(node)
        self._scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension  # noqa: N815


def _used(sources: dict[str, str], *, builtins_too: bool = True) -> set[str]:
    """All names of attributes, variables and functions, whosoever they are."""
    found = set()
    for source in sources.values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and (builtins_too or not hasattr(builtins, node.id)):
                found.add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
    return found


def renamed(sources: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(the package's sources with numbers for constants and other names, the replacements)."""
    sources = without_constants(sources)
    replacements = renaming(sources)
    result = {}
    for name, source in sources.items():
        tree = ast.parse(source)
        Renamer(replacements, tree, inside=True, sources=sources).visit(tree)
        result[name] = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    return result, replacements


@cache
def _constants(sources: tuple[tuple[str, str], ...]) -> constants.Constants:
    return constants.constants(dict(sources), open_modules=OPEN)


@cache
def _by_keyword(sources: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """Arguments that are given by keyword alone."""
    return frozenset(
        argument.arg
        for _, text in sources
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef)
        for argument in function.args.kwonlyargs
    )


def without_constants(sources: dict[str, str]) -> dict[str, str]:
    """The package's sources with numbers for constants."""
    known = _constants(tuple(sources.items()))
    return {name: constants.folded(source, known, name) for name, source in sources.items()}


def renamed_program(source: str, sources: dict[str, str], replacements: dict[str, str]) -> str:
    """A program that looks inside the package, as the tests do, with the names that a compiled package has."""
    tree = ast.parse(constants.folded(source, _constants(tuple(sources.items()))))
    Renamer(replacements, tree, inside=False, sources=sources).visit(tree)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def renamed_kernels(source: str, replacements: dict[str, str]) -> str:
    """The native kernels: the names of their functions, which do not call each other."""
    return re.sub(
        r"^def (\w+)", lambda found: "def " + replacements.get(found[1], found[1]), source, flags=re.MULTILINE
    )
