# ruff: noqa: SIM905  tables of words read best as words
"""Write the probes for Python 2.7, in which CNTK lives.

The sources stay modern.  What 2.7 cannot read is said in other words (f-strings, annotations,
stars, keyword-only arguments), what it lacks comes from ``probes/backports.py``, and what means
something else there is replaced (dictionaries without an order, ``/`` of integers, variables of
comprehensions that outlive them).  All strings are byte strings in UTF-8.  Whatever this module
does not know is refused with its file and line.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

from kernelprof.errors import KernelprofError

# What nothing imports by name; the modules that these import are translated with them.
ROOTS = ("boot", "session", "on_cntk", "on_numpy")
BACKPORTS = "backports"  # in Python 2.7 already

# What means the same in both versions: grammar, functions and exceptions, methods, modules.
SAME_SYNTAX = set(
    "Module Import alias Expr Assign AugAssign Return Delete For While With withitem Try "
    "ExceptHandler Assert Pass Break Continue Global Lambda keyword Yield IfExp BoolOp BinOp "
    "UnaryOp And Or Add Sub Mult Div Mod Pow LShift RShift BitOr BitXor BitAnd FloorDiv Invert "
    "Not UAdd USub Eq NotEq Lt LtE Gt GtE Is IsNot In NotIn SetComp GeneratorExp comprehension "
    "Subscript Slice Starred Load Store Del".split()
)
SAME_BUILTINS = set(
    "abs all any bool bytearray callable classmethod delattr divmod enumerate float frozenset "
    "getattr hasattr hash id int isinstance issubclass iter len list object print property repr "
    "reversed set setattr slice sorted staticmethod sum super tuple type __file__ __name__ "
    "__package__ ArithmeticError AssertionError AttributeError BaseException Exception "
    "ImportError IndexError KeyError KeyboardInterrupt LookupError MemoryError NameError "
    "NotImplemented NotImplementedError OverflowError RuntimeError SystemExit TypeError "
    "ValueError ZeroDivisionError".split()
)
SAME_METHODS = set(
    "__call__ __contains__ __del__ __delitem__ __enter__ __exit__ __getattr__ __getitem__ "
    "__init__ __iter__ __len__ __post_init__ __repr__ __setattr__ __setitem__".split()
)
SAME_MODULES = set(
    "collections contextlib copy ctypes functools gc importlib itertools json logging "
    "mmap operator os os.path platform resource shutil signal sys tempfile threading time "
    "traceback types warnings weakref".split()
)
OTHER_BUILTINS = {
    "OSError": "EnvironmentError",  # the IOError of an open is no OSError there
    "ProcessLookupError": "backports.ProcessLookupError",
    "dict": "backports.Dict",
    "filter": "backports.ifilter",
    "map": "backports.imap",
    "max": "backports.greatest",
    "min": "backports.least",
    "next": "backports.following",
    "range": "xrange",
    "str": "backports.text",
    "zip": "backports.izip",
}
# The names of the standard library that are in ``backports``.
BACKPORTED = set(
    "contextlib.AbstractContextManager contextlib.nullcontext contextlib.suppress "
    "dataclasses.asdict dataclasses.dataclass dataclasses.field dataclasses.fields "
    "dataclasses.replace functools.cached_property functools.lru_cache gc.freeze gc.unfreeze "
    "importlib.util.module_from_spec importlib.util.spec_from_file_location json.loads math.erf "
    "os.sched_getaffinity os.sched_setaffinity pathlib.Path time.monotonic "
    "time.perf_counter_ns typing.NamedTuple".split()
)
BACKPORTED_MODULES = {name.rpartition(".")[0] for name in BACKPORTED} - SAME_MODULES
# What no source may read: these differ, or are only read through one of their names.
UNKNOWN = (
    set(dir(builtins)) - SAME_BUILTINS - set(OTHER_BUILTINS) | BACKPORTED_MODULES | {BACKPORTS}
)
# What only annotations use.
TYPES = {"dict", "frozenset", "list", "set", "tuple", "type"}
MODULES_OF_TYPES = ("collections.abc", "typing")
# What no source may call something of its own.
RESERVED = {BACKPORTS, *OTHER_BUILTINS}

HEADER = """\
# -*- coding: utf-8 -*-
# For Python 2.7, written by kernelprof from probes/{}.
"""
FUTURE = "from __future__ import absolute_import, division, print_function"


class TranslationError(KernelprofError):
    """A source says something that has no translation; the message names file and line."""


def write_package(source: Path, target: Path) -> Path:
    """Write the probes for Python 2.7 into a folder of ``target`` of their own.

    The folder is named after what the sources say, so it is written once; and all at once.

    Returns:
        The path of the copy's ``boot.py``, which is run as the probes' own is.

    Raises:
        TranslationError: a source has no translation.
    """
    sources = _sources(source)
    stamp = Path(__file__).read_text("utf-8") + repr(sorted(sources.items()))
    folder = target / f"probes-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            written = Path(scratch) / "probes"
            written.mkdir()
            for name, text in sources.items():
                translated = text if name == BACKPORTS else translate(text, f"{name}.py")
                (written / f"{name}.py").write_text(translated, "utf-8")
            try:
                written.rename(folder)
            except OSError:
                if not folder.is_dir():  # where it is, another process was faster
                    raise
    return folder / "boot.py"


def _sources(folder: Path) -> dict[str, str]:
    """The text of the modules that a worker needs."""
    found: dict[str, str] = {}
    waiting = [BACKPORTS, *(root for root in ROOTS if (folder / f"{root}.py").is_file())]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = (folder / f"{name}.py").read_text("utf-8")
        for node in ast.walk(ast.parse(found[name], f"{name}.py")):
            if isinstance(node, ast.ImportFrom) and node.level:
                waiting += [node.module] if node.module else [each.name for each in node.names]
    return found


def translate(text: str, file: str) -> str:
    """The text of one module in Python 2.7.

    Raises:
        TranslationError: it holds something that has no translation.
    """
    translator = _Translator(file)
    tree = translator.visit(ast.parse(text, file))
    translator.check(tree)
    uses_backports = any(isinstance(n, ast.Name) and n.id == BACKPORTS for n in ast.walk(tree))
    _insert(tree, FUTURE + (f"; from . import {BACKPORTS}" if uses_backports else ""))
    return HEADER.format(file) + ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _insert(node: Any, code: str) -> None:
    """Put statements first in a body, but after its docstring."""
    start = 0 if ast.get_docstring(node) is None else 1
    node.body[start:start] = ast.parse(code).body


def _expression(code: str) -> Any:
    return ast.parse(code, mode="eval").body


def _call(function: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(_expression(function), list(arguments), [])


def _method(value: ast.expr, name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.Attribute(value, name, ast.Load()), list(arguments), [])


def _chained(parts: list[ast.expr]) -> list[ast.expr]:
    """The one iterable that yields what these yield in turn, if there are any."""
    return parts if len(parts) < 2 else [_call("backports.chain", *parts)]


def _has_star(elements: list[ast.expr]) -> bool:
    return any(isinstance(each, ast.Starred) for each in elements)


def _unstarred(elements: list[Any]) -> list[ast.expr]:
    """What elements with stars among them yield, as ``_chained`` does."""
    parts: list[ast.expr] = []
    for starred, group in groupby(elements, lambda each: isinstance(each, ast.Starred)):
        if starred:
            parts += [each.value for each in group]
        else:
            parts.append(ast.Tuple(list(group), ast.Load()))
    return _chained(parts)


class _Translator(ast.NodeTransformer):
    """Translates one file: of each node the children first."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.line = 0
        self.imported_types: set[str] = set()
        self.scopes: list[ast.AST] = []
        self.classes_asked_for: set[ast.AST] = set()

    def refuse(self, node: ast.AST, what: str) -> TranslationError:
        line = getattr(node, "lineno", self.line)
        return TranslationError(f"probes/{self.file}:{line}: no translation to Python 2.7: {what}")

    def visit(self, node: ast.AST) -> Any:
        name = type(node).__name__
        self.line = getattr(node, "lineno", self.line)
        if name not in SAME_SYNTAX and not hasattr(self, f"visit_{name}"):
            raise self.refuse(node, name)
        bound = getattr(node, "asname", None) or getattr(node, "name", None)
        if bound in RESERVED and not self._in_class():
            raise self.refuse(node, f"the name {bound}")
        return super().visit(node)

    def _in_class(self) -> bool:
        return bool(self.scopes) and isinstance(self.scopes[-1], ast.ClassDef)

    def check(self, tree: ast.AST) -> None:
        """Refuse what is only known once all is translated."""
        nodes = list(ast.walk(tree))
        last_arguments = {n.args[-1] for n in nodes if isinstance(n, ast.Call) and n.args}
        for node in nodes:
            if isinstance(node, ast.Starred) and node not in last_arguments:
                raise self.refuse(node, "a star here")
            if isinstance(node, ast.Name) and node.id in self.imported_types:
                raise self.refuse(node, f"the type {node.id} outside of annotations")

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        self.generic_visit(node)
        node.names = [each for each in node.names if each.name not in BACKPORTED_MODULES]
        for each in node.names:
            self._require(node, each.name)
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        self.generic_visit(node)
        if node.level or node.module is None:
            return node
        moved = [each for each in node.names if f"{node.module}.{each.name}" in BACKPORTED]
        rest = [each for each in node.names if each not in moved]
        if node.module == "__future__":
            return None
        if node.module in MODULES_OF_TYPES:
            self.imported_types |= {each.asname or each.name for each in rest}
            rest = []
        if rest:
            self._require(node, node.module)
        found = [ast.ImportFrom(BACKPORTS, moved, 1), ast.ImportFrom(node.module, rest, 0)]
        return [each for each in found if each.names]

    def _require(self, node: ast.AST, module: str) -> None:
        if module.partition(".")[0] in sys.stdlib_module_names and module not in SAME_MODULES:
            raise self.refuse(node, f"the module {module}")

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id in (UNKNOWN if isinstance(node.ctx, ast.Load) else RESERVED):
            raise self.refuse(node, f"the name {node.id}")
        if node.id not in OTHER_BUILTINS or node in self.classes_asked_for:
            return node
        return _expression(OTHER_BUILTINS[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        name = ast.unparse(node)
        if name in BACKPORTED_MODULES:
            raise self.refuse(node, f"this use of {name}")
        return (
            _expression(f"backports.{node.attr}")
            if name in BACKPORTED
            else self.generic_visit(node)
        )

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str) and not node.value.isascii():
            raise self.refuse(node, "a string beyond ASCII")
        return _expression("Ellipsis") if node.value is Ellipsis else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        template, values = self._template(node)
        return _method(ast.Constant(template), "format", *values)

    def _template(self, node: Any) -> tuple[str, list[ast.expr]]:
        """What ``str.format`` takes for an f-string, or for the format within one."""
        template, values = "", []
        for part in node.values:
            if isinstance(part, ast.Constant):
                self.visit(part)
                template += str(part.value).replace("{", "{{").replace("}", "}}")
                continue
            value = self.visit(part.value)
            spec, inner = self._template(part.format_spec) if part.format_spec else ("", [])
            conversion = chr(part.conversion) if part.conversion >= 0 else "" if spec else "s"
            if conversion == "a":
                raise self.refuse(part, "!a")
            if conversion == "s":
                value = _call("backports.text", value)
            template += "{" + ("!r" if conversion == "r" else "") + (spec and f":{spec}") + "}"
            values += [value, *inner]
        return template, values

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        parts: list[ast.expr] = []
        items: Any = zip(node.keys, node.values, strict=True)
        for unpacked, group in groupby(items, lambda item: item[0] is None):
            if unpacked:
                parts += [_method(value, "items") for _, value in group]
            else:
                pairs: list[Any] = [ast.Tuple(list(item), ast.Load()) for item in group]
                parts.append(ast.List(pairs, ast.Load()))
        return _call("backports.Dict", *_chained(parts))

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        pair = ast.Tuple([node.key, node.value], ast.Load())
        return _call("backports.Dict", self._generator(pair, node))

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return _call("list", self._generator(node.elt, node))

    def _generator(self, element: ast.expr, node: Any) -> Any:
        """In place of a comprehension: it keeps its variables to itself."""
        return self.generic_visit(ast.GeneratorExp(element, node.generators))

    def _elements(self, node: Any) -> Any:
        self.generic_visit(node)
        stored = isinstance(getattr(node, "ctx", None), ast.Store)
        if stored or not _has_star(node.elts):
            return node
        return _call(type(node).__name__.lower(), *_unstarred(node.elts))

    visit_List = visit_Set = visit_Tuple = _elements  # noqa: N815  ast's own names

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for side in map(ast.unparse, (node.left, *node.comparators)):
            if side in OTHER_BUILTINS or side.endswith((".keys()", ".items()")):
                raise self.refuse(node, f"a comparison with {side}")
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        function = ast.unparse(node.func)
        if function == "isinstance":
            names = (each for each in ast.walk(node.args[1]) if isinstance(each, ast.Name))
            self.classes_asked_for |= {each for each in names if each.id in ("dict", "str")}
        if function == "super" and not node.args:
            node.args = self._super_arguments(node)
        self.generic_visit(node)
        if _has_star(node.args[:-1]):
            node.args = [ast.Starred(each, ast.Load()) for each in _unstarred(node.args)]
        if node.keywords and (function == "dict" or function.endswith(".update")):
            raise self.refuse(node, "keywords of a dictionary, whose order is lost")
        if sum(each.arg is None for each in node.keywords) > 1:
            raise self.refuse(node, "two ** in one call")
        node.keywords.sort(key=lambda each: each.arg is None)
        return node

    def _super_arguments(self, node: ast.Call) -> list[ast.expr]:
        match self.scopes[-2:]:
            case [ast.ClassDef(name=name), ast.FunctionDef(args=ast.arguments(args=[first, *_]))]:
                return [_expression(name), _expression(first.arg)]
        raise self.refuse(node, "super() outside of a method")

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):
            return node  # a docstring
        if isinstance(node.value, ast.YieldFrom):
            loop: Any = ast.parse("for _each in _: yield _each").body[0]
            loop.iter = self.visit(node.value.value)
            return loop  # type: ignore[no-any-return]  # an ast.For, as the text shows
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        generic = ast.unparse(node.value).partition("[")[0]
        if isinstance(node.value, ast.Subscript) and generic in TYPES | self.imported_types:
            return ast.Assign(node.targets, ast.Constant(ast.unparse(node.value)))
        self.generic_visit(node)
        names: list[Any] = getattr(node.targets[0], "elts", [])
        if len(node.targets) == 1 and _has_star(names):
            before = [isinstance(each, ast.Starred) for each in names].index(True)
            names[before] = names[before].value
            ends = (ast.Constant(before), ast.Constant(len(names) - before - 1))
            node.value = _call("backports.unpacked", node.value, *ends)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return self.visit_Assign(ast.Assign([node.target], node.value)) if node.value else None

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return [self.visit(each) for each in node.orelse]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        node.cause = None
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        special = node.name.startswith("__") and node.name.endswith("__")
        if special and self._in_class() and node.name not in SAME_METHODS:
            raise self.refuse(node, f"the method {node.name}")
        node.returns = None
        unpacking = self._keyword_only(node.args)
        self.scopes.append(node)
        self.generic_visit(node)
        self.scopes.pop()
        _insert(node, unpacking)
        return node

    def _keyword_only(self, node: ast.arguments) -> str:
        """Replace keyword-only arguments by statements that take them from ``_named``."""
        if not node.kwonlyargs:
            return ""
        lines = []
        for argument, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
            if node.kwarg or not isinstance(default, (ast.Constant, type(None))):
                raise self.refuse(argument, "a keyword-only argument like this")
            taken = [repr(argument.arg), *([ast.unparse(default)] if default else [])]
            lines.append(f"{argument.arg} = _named.pop({', '.join(taken)})")
        lines.append("if _named: raise TypeError('unexpected arguments %r' % sorted(_named))")
        node.kwonlyargs, node.kw_defaults, node.kwarg = [], [], ast.arg("_named")
        return "\n".join(lines)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        for argument in node.posonlyargs + node.kwonlyargs:
            raise self.refuse(argument, "an argument of this kind")
        if node.kwarg and node.kwarg.arg != "_named":
            raise self.refuse(node.kwarg, "** arguments, whose order is lost")
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        if node.arg in RESERVED:
            raise self.refuse(node, f"the name {node.arg}")
        return ast.arg(node.arg)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Its fields, which annotations tell, become a table of names and types."""
        if node.keywords:
            raise self.refuse(node, "a metaclass")
        annotated = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        fields = [(ast.unparse(each.target), ast.unparse(each.annotation)) for each in annotated]
        node.bases = node.bases or [_expression("object")]
        self.scopes.append(node)
        self.generic_visit(node)
        self.scopes.pop()
        if fields or not node.body:
            _insert(node, f"_annotated = {fields!r}")
        return node
