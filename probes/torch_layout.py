"""How images and the weights of convolutions lie in memory in torch: as the environment asks."""

from __future__ import annotations

import os
from typing import Any, Callable, NamedTuple

import torch

VARIABLE = "KERNELPROF_LAYOUT"


class Layout(NamedTuple):
    """An order of the axes; ``view`` shows a value of a network in another shape."""

    name: str
    memory_format: Any
    view: Callable[[Any, tuple[int, ...]], Any]

    def place(self, tensor: Any) -> Any:
        """The tensor in this layout, which matters to images and weights of four axes alone."""
        is_image = tensor.dim() == 4
        return tensor.contiguous(memory_format=self.memory_format) if is_image else tensor

    def place_flat(self, tensor: Any) -> Any:
        """An image whose rows and columns are one axis: where its channels lie within, of four."""
        if self is NCHW or tensor.dim() != 3:
            return tensor
        return self.place(tensor.unsqueeze(-1))


NCHW = Layout("NCHW", torch.contiguous_format, torch.Tensor.view)
NHWC = Layout("NHWC", torch.channels_last, torch.Tensor.reshape)  # which moves what it flattens

LAYOUTS = {"": NCHW, "channels_last": NHWC}


def layout() -> Layout:
    """The layout that the environment asks for.

    Raises:
        ValueError: torch has no such layout.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked not in LAYOUTS:
        raise ValueError(f"{VARIABLE} is {asked!r}; torch takes 'channels_last', or leave it out")
    return LAYOUTS[asked]
