"""CUDA of the cupy engine: what one launch does for every element, or for every term of a sum.

A source is the body of a loop over ``i``.  Its operands are those of ``cupy.ElementwiseKernel``:
``T`` is float or double, a ``raw`` one is indexed by the source itself, and of all others the
element ``i`` is meant.  ``Index`` is an integer that is wide enough for the arrays at hand: on a
GPU a division of 64 bits takes several times as long as one of 32.  The sources keep to what C and
CUDA have in common, so that a C compiler can tell what they compute.
"""

from __future__ import annotations

from typing import NamedTuple

from .cupy_window_sources import OF_WINDOWS, Elementwise


class Sum(NamedTuple):
    """A sum over some axes of a term of what it reads."""

    reads: str
    term: str


_CHANNEL_WINDOW = """
    const Index n = i, channel = n / positions % channels;
    const Index first = channel < before ? -channel : -before;
    const Index last = channel + after < channels ? after : channels - 1 - channel;
"""

ELEMENTWISE = {
    "relu": Elementwise("T x", "T y", "y = x < 0 ? (T)0 : x"),
    "sigmoid": Elementwise("T x", "T y", "y = 1 / (1 + exp(-x))"),
    "tanh": Elementwise("T x", "T y", "y = tanh(x)"),
    "gelu": Elementwise("T x", "T y", "y = (T)0.5 * x * (1 + erf(x * (T)0.7071067811865476))"),
    "relu_slope": Elementwise("T y, T dy", "T dx", "dx = y > 0 ? dy : (T)0"),
    "sigmoid_slope": Elementwise("T y, T dy", "T dx", "dx = dy * y * (1 - y)"),
    "tanh_slope": Elementwise("T y, T dy", "T dx", "dx = dy * (1 - y * y)"),
    "gelu_slope": Elementwise(
        "T x, T dy",
        "T dx",
        """
        const T below = (T)0.5 * (1 + erf(x * (T)0.7071067811865476));
        dx = dy * (below + x * (T)0.3989422804014327 * exp((T)-0.5 * x * x));
        """,
    ),
    "masked": Elementwise("T x, bool mask, T scale", "T y", "y = mask ? x * scale : (T)0"),
    # The i-th number of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
    # generators"), which needs no state: its upper 24 bits are a number from [0, 1).
    "dropped": Elementwise(
        "T x, uint64 seed, T rate, T scale",
        "T y, bool mask",
        """
        unsigned long long z = seed + (i + 1) * 0x9E3779B97F4A7C15ULL;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
        z = (z ^ (z >> 31)) >> 40;
        mask = (T)z * (T)5.9604644775390625e-08 >= rate;
        y = mask ? x * scale : (T)0;
        """,
    ),
    "deviation": Elementwise(
        "T total, T count, T epsilon", "T deviation", "deviation = sqrt(total / count + epsilon)"
    ),
    "normalised": Elementwise(
        "T x, T mean, T deviation, T gamma, T beta",
        "T y",
        "y = (x - mean) / deviation * gamma + beta",
    ),
    # The gradient g = gamma dy less its parts along the mean and along the deviation, of which
    # ``straight`` and ``tilted`` are the sums of g and of g (x - mean).
    "normalised_slope": Elementwise(
        "T x, T mean, T deviation, T gamma, T dy, T straight, T tilted, T count",
        "T dx",
        """
        const T along = straight + (x - mean) * tilted / (deviation * deviation);
        dx = (gamma * dy - along / count) / deviation;
        """,
    ),
    "rescaled": Elementwise("T dy, T gamma, T deviation", "T dx", "dx = dy * gamma / deviation"),
    "lrn": Elementwise(
        "raw T x, int32 channels, int32 positions, int32 before, int32 after, "
        "T weight, T beta, T k",
        "T y, T norm",
        f"""
        {_CHANNEL_WINDOW}
        T total = 0;
        for (Index d = first; d <= last; ++d) {{
            const T value = x[n + d * positions];
            total += value * value;
        }}
        norm = k + weight * total;
        y = x[n] * pow(norm, -beta);
        """,
    ),
    "lrn_slope": Elementwise(
        "raw T x, raw T norm, raw T dy, int32 channels, int32 positions, int32 before, "
        "int32 after, T weight, T beta",
        "T dx",
        f"""
        {_CHANNEL_WINDOW}
        T shared = 0;
        for (Index d = first; d <= last; ++d) {{
            const Index there = n + d * positions;
            shared += dy[there] * x[there] * pow(norm[there], -beta - 1);
        }}
        dx = dy[n] * pow(norm[n], -beta) - 2 * weight * beta * x[n] * shared;
        """,
    ),
    **OF_WINDOWS,
    # One step of the cells: gates[cell, (i, f, g, o) of hidden] hold the inputs' products, which
    # become the activated gates.
    "lstm_gates": Elementwise(
        "raw T recurrent, raw T bias, T before, int32 hidden",
        "T h, T cell, raw T gates",
        """
        const Index n = i, unit = n % hidden, at = n / hidden * 4 * hidden + unit;
        const Index to_f = hidden, to_g = 2 * hidden, to_o = 3 * hidden;
        const T in = 1 / (1 + exp(-(gates[at] + recurrent[at] + bias[unit])));
        const T forget = 1 / (1 + exp(-(gates[at + to_f] + recurrent[at + to_f]
                                        + bias[unit + to_f])));
        const T fresh = tanh(gates[at + to_g] + recurrent[at + to_g] + bias[unit + to_g]);
        const T out = 1 / (1 + exp(-(gates[at + to_o] + recurrent[at + to_o]
                                     + bias[unit + to_o])));
        cell = forget * before + in * fresh;
        h = out * tanh(cell);
        gates[at] = in;
        gates[at + to_f] = forget;
        gates[at + to_g] = fresh;
        gates[at + to_o] = out;
        """,
    ),
    # ``carried`` is the gradient of the cell that comes from the step after, and goes on to the one
    # before.
    "lstm_gates_slope": Elementwise(
        "raw T gates, T cell, T before, T dy, T dh, int32 hidden",
        "T carried, raw T dgates",
        """
        const Index n = i, at = n / hidden * 4 * hidden + n % hidden;
        const Index to_f = hidden, to_g = 2 * hidden, to_o = 3 * hidden;
        const T in = gates[at], forget = gates[at + to_f];
        const T fresh = gates[at + to_g], out = gates[at + to_o];
        const T shown = tanh(cell), upstream = dy + dh;
        const T dcell = carried + upstream * out * (1 - shown * shown);
        dgates[at] = dcell * fresh * in * (1 - in);
        dgates[at + to_f] = dcell * before * forget * (1 - forget);
        dgates[at + to_g] = dcell * in * (1 - fresh * fresh);
        dgates[at + to_o] = upstream * shown * out * (1 - out);
        carried = dcell * forget;
        """,
    ),
    "softmax": Elementwise("T x, T largest, T total", "T y", "y = exp(x - largest) / total"),
    "softmax_slope": Elementwise("T y, T dy, T mean", "T dx", "dx = y * (dy - mean)"),
    "cross_entropy": Elementwise(
        "raw T x, int64 label, T largest, T total, int32 classes",
        "T loss",
        "loss = log(total) + largest - x[i * classes + label]",
    ),
    "cross_entropy_slope": Elementwise(
        "T probability, int64 label, int32 classes, T share",
        "T dx",
        """
        const Index n = i;
        dx = (probability - (n % classes == label ? 1 : 0)) * share;
        """,
    ),
    "scatter": Elementwise(
        "raw int64 ids, T dy, int32 row_length",
        "raw T table",
        """
        const Index n = i;
        atomicAdd(&table[ids[n / row_length] * row_length + n % row_length], dy);
        """,
    ),
    "sgd": Elementwise("T dw, T rate", "T w", "w -= rate * dw"),
    "sgd_with_momentum": Elementwise(
        "T dw, T momentum, T rate", "T w, T v", "v = momentum * v + dw; w -= rate * v"
    ),
    "triad": Elementwise("T a, T b", "T y", "y = a + 3 * b"),
}

SUMS = {
    "squares": Sum("T x, T mean", "(x - mean) * (x - mean)"),
    "products": Sum("T x, T y", "x * y"),
    "tilted": Sum("T x, T mean, T gamma, T dy", "(x - mean) * gamma * dy"),
    "normalised_products": Sum("T x, T mean, T deviation, T dy", "(x - mean) / deviation * dy"),
    "powers": Sum("T x, T largest", "exp(x - largest)"),
}
