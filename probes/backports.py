# Python 2.7 reads this file as it stands, so it has no ``from __future__ import annotations``.
"""What the probes use that Python 2.7 lacks; only their translation for Python 2.7 imports this.

Each name does as much of its namesake's work as the probes ask for.
"""

import collections
import contextlib
import ctypes
import errno
import functools
import glob
import itertools
import json
import math
import os
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MutableMapping = getattr(collections, "MutableMapping", object)  # type: Any
Unicode = type(b"".decode())
chain = itertools.chain
erf = math.erf
izip = getattr(itertools, "izip", zip)
imap = getattr(itertools, "imap", map)
ifilter = getattr(itertools, "ifilter", filter)


def text(value=""):  # type: (Any) -> str
    """``str``, with all digits of a float and with Unicode as UTF-8, which every string is here."""
    if isinstance(value, float):
        return float.__repr__(value)
    try:
        return str(value)
    except UnicodeEncodeError:
        return Unicode(value).encode("utf-8")  # type: ignore[return-value]  # bytes are 2.7's str


def greatest(*values, **options):  # type: (*Any, **Any) -> Any
    """``max`` with a default."""
    return _extreme(max, values, options)


def least(*values, **options):  # type: (*Any, **Any) -> Any
    """``min`` with a default."""
    return _extreme(min, values, options)


def _extreme(choose, values, options):  # type: (Any, Any, Any) -> Any
    if "default" in options:
        default = options.pop("default")
        values = (list(values[0]) or [default],)
    return choose(*values, **options)


def following(iterator, *default):  # type: (Any, *Any) -> Any
    """``next``, whose StopIteration would end a generator around it without a word."""
    try:
        return next(iterator, *default)
    except StopIteration:
        raise RuntimeError("generator raised StopIteration")


def unpacked(values, before, after):  # type: (Any, int, int) -> Any
    """The values for a target such as ``a, *rest, z``."""
    values = tuple(values)
    end = len(values) - after
    if end < before:
        raise ValueError("not enough values to unpack")
    return values[:before] + (list(values[before:end]),) + values[end:]


# Ignored: the first base is known to 2.7 alone, and 2.7 has no dict[...] to inherit from.
class Dict(MutableMapping, dict):  # type: ignore[misc,type-arg]
    """A dictionary that keeps the order in which its keys came."""

    def __init__(self, *items, **named):  # type: (*Any, **Any) -> None
        self._order = []  # type: list[Any]
        self.update(*items, **named)

    def __setitem__(self, key, value):  # type: (Any, Any) -> None
        if key not in self:
            self._order.append(key)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key):  # type: (Any) -> None
        dict.__delitem__(self, key)
        self._order.remove(key)

    def __iter__(self):  # type: () -> Any
        return iter(self._order)

    def __repr__(self):  # type: () -> str
        return "{%s}" % ", ".join("%r: %r" % item for item in self.items())

    def copy(self):  # type: () -> Any
        """A dictionary with the same items."""
        return Dict(self)

    __getitem__ = dict.__getitem__
    __contains__ = dict.__contains__
    __len__ = dict.__len__
    __eq__ = dict.__eq__
    __ne__ = dict.__ne__
    __hash__ = None
    get = dict.get


def loads(line):  # type: (Any) -> Any
    """``json.loads``."""
    return _native(json.loads(line, object_pairs_hook=Dict))


def _native(value):  # type: (Any) -> Any
    if isinstance(value, Dict):
        return Dict((_native(key), _native(each)) for key, each in value.items())
    if isinstance(value, list):
        return [_native(each) for each in value]
    return value.encode("utf-8") if isinstance(value, Unicode) else value


AbstractContextManager = object


class Field(object):
    """A field of a dataclass."""

    def __init__(self, name, type, default):  # type: (str, str, tuple[Any, ...]) -> None
        self.name, self.type, self.default = name, type, default

    def value(self, given):  # type: (Any) -> Any
        """What was given for the field, or its default."""
        if self.name in given:
            return given[self.name]
        if not self.default:
            raise TypeError("missing required argument %r" % self.name)
        (default,) = self.default
        return default.make() if isinstance(default, field) else default


class field(object):
    """A default that is made anew for each object."""

    def __init__(self, default_factory):  # type: (Any) -> None
        self.make = default_factory


def dataclass(frozen):  # type: (bool) -> Any
    """Make a class immutable, hashable, and comparable by its fields."""
    if frozen is not True:
        raise TypeError("dataclasses are frozen in the probes")
    return _frozen


def _frozen(cls):  # type: (Any) -> Any
    found = collections.OrderedDict((each.name, each) for each in getattr(cls, "_data_fields", ()))
    for name, kind in cls.__dict__.get("_annotated", ()):
        if not kind.startswith("ClassVar"):
            default = (cls.__dict__[name],) if name in cls.__dict__ else ()
            found[name] = Field(name, kind, default)
    cls._data_fields = tuple(found.values())
    cls.__init__ = _init
    for name, method in _DATA_METHODS.items():
        if name not in cls.__dict__:
            setattr(cls, name, method)
    return cls


def _init(self, *values, **named):  # type: (Any, *Any, **Any) -> None
    names = [each.name for each in self._data_fields]
    given = dict(zip(names, values))
    unknown = [name for name in named if name not in names or name in given]
    if len(values) > len(names) or unknown:
        raise TypeError("unexpected arguments %r" % (unknown or values[len(names) :],))
    given.update(named)
    self.__dict__.update((each.name, each.value(given)) for each in self._data_fields)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _key(self):  # type: (Any) -> Any
    own = self.__dict__
    return tuple([own[each.name] for each in self._data_fields])


def _equal(self, other):  # type: (Any, object) -> Any
    return _key(self) == _key(other) if type(other) is type(self) else NotImplemented


def _refuse(self, name, *value):  # type: (Any, str, *Any) -> None
    raise AttributeError("cannot change field %r" % name)


def _repr(self):  # type: (Any) -> str
    shown = ", ".join("%s=%r" % item for item in zip([f.name for f in fields(self)], _key(self)))
    return "%s(%s)" % (type(self).__name__, shown)


_DATA_METHODS = {
    "__eq__": _equal,
    "__ne__": lambda self, other: not self == other,
    "__hash__": lambda self: hash(_key(self)),
    "__repr__": _repr,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
}  # type: dict[str, Any]


def fields(data):  # type: (Any) -> tuple[Field, ...]
    """The fields of a dataclass, in order."""
    return data._data_fields  # type: ignore[no-any-return]  # put there by dataclass()


def replace(data, **changes):  # type: (Any, **Any) -> Any
    """A copy with other values in some fields."""
    values = dict(zip([each.name for each in fields(data)], _key(data)))
    values.update(changes)
    return type(data)(**values)


def asdict(value):  # type: (Any) -> Any
    """The fields by name, those of dataclasses within too."""
    if hasattr(value, "_data_fields"):
        names = [each.name for each in fields(value)]
        return Dict((name, asdict(each)) for name, each in zip(names, _key(value)))
    if isinstance(value, dict):
        return Dict((key, asdict(each)) for key, each in value.items())
    return type(value)(map(asdict, value)) if type(value) in (list, tuple) else value


class _NamedTupleMaker(type):
    def __new__(mcs, name, bases, body):  # type: (Any, str, Any, Any) -> Any
        if bases == (object,):
            return type.__new__(mcs, name, bases, body)
        names = [each for each, _ in body.pop("_annotated")]
        # Ignored: a type checker wants to read the names here; a class in 2.7 has them in a table.
        base = collections.namedtuple(name, names)  # type: ignore[misc]
        base.__new__.__defaults__ = tuple(body.pop(each) for each in names if each in body)
        return type(name, (base,), dict(body, __slots__=()))


NamedTuple = _NamedTupleMaker("NamedTuple", (object,), {})


class cached_property(object):
    """A property that is computed once."""

    def __init__(self, function):  # type: (Any) -> None
        self.function = function

    def __get__(self, instance, owner):  # type: (Any, Any) -> Any
        value = instance.__dict__[self.function.__name__] = self.function(instance)
        return value


def lru_cache(maxsize=128):  # type: (Any) -> Any
    """Remember a function's results; forgets them all once there are ``maxsize``."""
    if callable(maxsize):
        return lru_cache()(maxsize)

    def decorate(function):  # type: (Any) -> Any
        results = {}  # type: dict[Any, Any]

        @functools.wraps(function)
        def remembered(*values):  # type: (*Any) -> Any
            if values not in results:
                if maxsize is not None and len(results) >= maxsize:
                    results.clear()
                results[values] = function(*values)
            return results[values]

        return remembered

    return decorate


@contextlib.contextmanager
def nullcontext():  # type: () -> Any
    """A context of nothing."""
    yield


@contextlib.contextmanager
def suppress(*errors):  # type: (*Any) -> Any
    """A context that lets these errors pass."""
    try:
        yield
    except errors:
        pass


class Path(object):
    """A path, as far as reading /proc needs it."""

    def __init__(self, path):  # type: (Any) -> None
        self.path = str(path)

    def __str__(self):  # type: () -> str
        return self.path

    @property
    def name(self):  # type: () -> str
        """The last part."""
        return os.path.basename(self.path)

    @property
    def stem(self):  # type: () -> str
        """The last part without its suffix."""
        return os.path.splitext(self.name)[0]

    @property
    def parent(self):  # type: () -> Path
        """The folder."""
        return Path(os.path.dirname(self.path))

    def glob(self, pattern):  # type: (str) -> list[Path]
        """The paths in the folder that a pattern fits."""
        return [Path(path) for path in glob.glob(os.path.join(self.path, pattern))]

    def read_text(self):  # type: () -> str
        """What the file holds."""
        with open(self.path) as file:
            return file.read()


class _Timespec(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]


_CLOCK_MONOTONIC = 1
_NOW = _Timespec()
_NOW_REFERENCE = ctypes.byref(_NOW)
# A PyDLL keeps the interpreter's lock, which halves the time of so short a call.
_clock_gettime = ctypes.PyDLL(None).clock_gettime
_LIBC = ctypes.CDLL(None, use_errno=True)


def perf_counter_ns():  # type: () -> int
    """Nanoseconds of the monotonic clock; a call takes about a quarter of a microsecond."""
    _clock_gettime(_CLOCK_MONOTONIC, _NOW_REFERENCE)
    return _NOW.s * 1000000000 + _NOW.ns  # type: ignore[no-any-return]  # c_long is read as int


def monotonic():  # type: () -> float
    """Seconds of the monotonic clock."""
    return perf_counter_ns() / 1e9


class ProcessLookupError(OSError):
    """No such process or thread."""


_CPUS = 8192  # more than any kernel knows


def sched_getaffinity(pid):  # type: (int) -> set[int]
    """The CPUs that a thread may run on."""
    mask = (ctypes.c_ubyte * (_CPUS // 8))()
    if _LIBC.sched_getaffinity(pid, ctypes.sizeof(mask), mask) < 0:
        _raise_errno()
    return {cpu for cpu in range(_CPUS) if mask[cpu // 8] >> cpu % 8 & 1}


def sched_setaffinity(pid, cpus):  # type: (int, Any) -> None
    """Let a thread run on these CPUs only."""
    mask = (ctypes.c_ubyte * (_CPUS // 8))()
    for cpu in cpus:
        mask[cpu // 8] |= 1 << cpu % 8
    if _LIBC.sched_setaffinity(pid, ctypes.sizeof(mask), mask) < 0:
        _raise_errno()


def _raise_errno():  # type: () -> None
    number = ctypes.get_errno()
    kind = ProcessLookupError if number == errno.ESRCH else OSError
    raise kind(number, os.strerror(number))


def freeze():  # type: () -> None
    """Nothing: this interpreter's collector looks at everything, always."""


unfreeze = freeze


_MODULES = []  # type: list[Any]  # kept: here a module that is dropped empties its functions' world


class _Spec(object):
    def __init__(self, name, path):  # type: (str, str) -> None
        self.name, self.path, self.loader = name, path, self

    def exec_module(self, module):  # type: (Any) -> None
        with open(self.path) as file:
            code = compile(file.read(), self.path, "exec")
        exec(code, module.__dict__)


def spec_from_file_location(name, path):  # type: (str, str) -> Any
    """How to load the module of a file."""
    return _Spec(name, path)


def module_from_spec(spec):  # type: (Any) -> Any
    """The module, still empty."""
    module = types.ModuleType(spec.name)
    module.__file__, module.__package__ = spec.path, spec.name.rpartition(".")[0]
    _MODULES.append(module)
    return module
