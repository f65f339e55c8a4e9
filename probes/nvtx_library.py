"""NVTX through NVIDIA's own library, for interpreters that no nvtx package exists for: Python 2.7.

``Library`` has of that package what ranges need, and calls it as the package does.  The structure
and the numbers are those of nvToolsExt.h, version 3.
"""

from __future__ import annotations

import ctypes

FILE = "libnvtx3interop.so.1"  # in the package nvidia-nvtx of PyPI
VERSION = 3
REGISTERED_STRING = 3
INT64 = 2
BYTES = b"".__class__  # a string of Python 2.7


class Attributes(ctypes.Structure):
    """``nvtxEventAttributes_t``: of an event whose name the tool knows already."""

    _fields_ = [
        ("version", ctypes.c_uint16),
        ("size", ctypes.c_uint16),
        ("category", ctypes.c_uint32),
        ("color_type", ctypes.c_int32),
        ("color", ctypes.c_uint32),
        ("payload_type", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("payload", ctypes.c_int64),
        ("message_type", ctypes.c_int32),
        ("message", ctypes.c_void_p),
    ]


class Library:
    """The library, loaded from where the loader looks for it."""

    def __init__(self) -> None:
        """Load it.

        Raises:
            OSError: it is not there.
        """
        library = ctypes.CDLL(FILE)
        self._create = library.nvtxDomainCreateA
        self._create.argtypes = [ctypes.c_char_p]
        self._create.restype = ctypes.c_void_p
        self._register = library.nvtxDomainRegisterStringA
        self._register.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._register.restype = ctypes.c_void_p
        self._push = library.nvtxDomainRangePushEx
        self._push.argtypes = [ctypes.c_void_p, ctypes.POINTER(Attributes)]
        self._pop = library.nvtxDomainRangePop
        self._pop.argtypes = [ctypes.c_void_p]
        self._domains: dict[str, int | None] = {}
        self._attributes: dict[tuple[str, str], Attributes] = {}

    def get_domain(self, name: str) -> int | None:
        """The handle of a domain; None where no tool takes it."""
        if name not in self._domains:
            self._domains[name] = self._create(_bytes(name))
        return self._domains[name]

    def push_range(self, message: str, domain: str, payload: int | None = None) -> None:
        """Open a range on this thread, with a number if there is one."""
        key = (message, domain)
        if key not in self._attributes:
            self._attributes[key] = self._named(message, self.get_domain(domain))
        attributes = self._attributes[key]
        if payload is not None:
            attributes.payload_type, attributes.payload = INT64, payload
        self._push(self.get_domain(domain), ctypes.byref(attributes))

    def pop_range(self, domain: str) -> None:
        """Close the range that was opened last."""
        self._pop(self.get_domain(domain))

    def _named(self, message: str, handle: int | None) -> Attributes:
        registered = self._register(handle, _bytes(message))
        return Attributes(
            version=VERSION,
            size=ctypes.sizeof(Attributes),
            message_type=REGISTERED_STRING,
            message=registered,
        )


def _bytes(text: str) -> bytes:
    """What C takes."""
    return text if isinstance(text, BYTES) else text.encode()
