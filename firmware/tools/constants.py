"""Numbers in place of the names of constants: a global costs heap, a number in the bytecode does not.

A constant is a global that is bound once, to a whole number, in any module but those that programs see into.
"""

from __future__ import annotations

import ast

Constants = dict[str, dict[str, int]]
"""By module and name."""

VARIABLES = {"REKEY_AFTER_TIME", "REKEY_TIMEOUT", "REKEY_JITTER"}
"""Times of WireGuard's that stay globals, so that a test of a compiled set need not wait for them."""

PACKAGES = ("lopower", "lopower_device")


def _number(node: ast.expr, known: dict[str, int]) -> int | None:
    """What an expression of whole numbers and known constants is worth."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id not in known:
            return None
        if isinstance(inner, ast.Constant) and type(inner.value) is not int:
            return None
        if not isinstance(
            inner, (ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)
        ):
            return None
    value = eval(compile(ast.Expression(node), "constant", "eval"), {"__builtins__": {}}, dict(known))  # noqa: S307
    return value if type(value) is int else None


def _pairs(statement: ast.stmt, known: dict[str, int]) -> list[tuple[str, int]]:
    """The constants that a statement binds, if it binds nothing else."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return []
    target, value = statement.targets[0], statement.value
    if isinstance(target, ast.Name):
        number = _number(value, known)
        return [] if number is None else [(target.id, number)]
    if not isinstance(target, ast.Tuple) or not all(isinstance(name, ast.Name) for name in target.elts):
        return []
    names = [name.id for name in target.elts if isinstance(name, ast.Name)]
    if isinstance(value, ast.Tuple):
        numbers = [_number(element, known) for element in value.elts]
        found = [(name, number) for name, number in zip(names, numbers, strict=True) if number is not None]
        return found if len(found) == len(names) else []
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "range":
        return list(zip(names, range(len(names)), strict=True))
    return []


def _bound(tree: ast.Module) -> dict[str, int]:
    """How often each name is bound, in any scope."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = [node.id]
        elif isinstance(node, ast.arg):
            names = [node.arg]
        elif isinstance(node, ast.Global):
            names = node.names * 2
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.asname or alias.name for alias in node.names]
        for name in names:
            found[name] = found.get(name, 0) + 1
    return found


def constants(sources: dict[str, str], *, open_modules: tuple[str, ...] = ()) -> Constants:
    """The constants of a package; of `open_modules` only those whose names begin with an underscore."""
    found: Constants = {}
    for name, source in sources.items():
        tree = ast.parse(source)
        once = {bound for bound, count in _bound(tree).items() if count == 1} - VARIABLES
        known: dict[str, int] = {}
        for statement in tree.body:
            pairs = _pairs(statement, known)
            if pairs and all(
                constant in once and (name not in open_modules or constant[0] == "_") for constant, _ in pairs
            ):
                known.update(pairs)
        found[name] = known
    return found


class Folder(ast.NodeTransformer):
    """Puts the numbers into one module, or into a program that uses the package."""

    def __init__(self, known: Constants, own: dict[str, int]) -> None:
        self._known = known
        self._here = dict(own)
        self._modules: dict[str, str] = {}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:  # noqa: N802
        parts = (node.module or "").split(".")
        if not node.level:
            if parts[0] not in PACKAGES:
                return node
            parts = parts[1:]
        module = parts[0] if parts else ""
        left = []
        for alias in node.names:
            if not module:
                self._modules[alias.asname or alias.name] = alias.name
                left.append(alias)
            elif alias.name in self._known.get(module, {}):
                self._here[alias.asname or alias.name] = self._known[module][alias.name]
            else:
                left.append(alias)
        node.names = left
        return node if left else None

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:  # noqa: N802
        pairs = _pairs(node, self._here)
        if pairs and all(self._here.get(name) == value for name, value in pairs):
            return None
        self.generic_visit(node)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: N802
        if isinstance(node.ctx, ast.Load) and node.id in self._here:
            return ast.Constant(self._here[node.id])
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:  # noqa: N802
        if isinstance(node.value, ast.Name) and node.value.id in self._modules:
            known = self._known.get(self._modules[node.value.id], {})
            if node.attr in known:
                return ast.Constant(known[node.attr])
        self.generic_visit(node)
        return node


def folded(source: str, known: Constants, module: str | None = None) -> str:
    """A module of the package, or a program that uses it, with numbers."""
    tree = ast.parse(source)
    own = known[module] if module else {}
    return ast.unparse(ast.fix_missing_locations(Folder(known, own).visit(tree))) + "\n"
