"""CUDA of the cupy engine for windows that slide over images: pooling, and unfolding for products.

How a source is written is said in ``cupy_sources``.
"""

from __future__ import annotations

from typing import NamedTuple


class Elementwise(NamedTuple):
    """A loop over elements; what it writes comes last among its operands."""

    reads: str
    writes: str
    source: str


# Images are x[images, channels, height, width].  A window is at (row, column) of the output and
# begins at the pixel (top, left), which may lie in the padding.
_WINDOW_OF_OUTPUT = """
    const Index n = i;
    const Index column = n % columns, row = n / columns % rows, plane = n / columns / rows;
    const Index top = row * stride_down - pad_top, left = column * stride_right - pad_left;
"""
_PIXELS_OF_WINDOW = """
    const Index first_y = top < 0 ? 0 : top, first_x = left < 0 ? 0 : left;
    const Index end_y = top + kernel_height < height ? top + kernel_height : height;
    const Index end_x = left + kernel_width < width ? left + kernel_width : width;
"""
# The windows that a pixel is in: rows from first_row up to end_row.
_WINDOWS_OF_PIXEL = """
    const Index n = i;
    const Index x = n % width + pad_left, y = n / width % height + pad_top;
    const Index plane = n / width / height;
    const Index first_row = y < kernel_height ? 0 : (y - kernel_height) / stride_down + 1;
    const Index first_column = x < kernel_width ? 0 : (x - kernel_width) / stride_right + 1;
    const Index end_row = y / stride_down < rows ? y / stride_down + 1 : rows;
    const Index end_column = x / stride_right < columns ? x / stride_right + 1 : columns;
"""
# How many positions of the padded image an average divides by.
_SIZE_OF_WINDOW = """
    const Index below = height + pad_bottom - (row * stride_down - pad_top);
    const Index beside = width + pad_right - (column * stride_right - pad_left);
    const Index positions = (below < kernel_height ? below : kernel_height)
                          * (beside < kernel_width ? beside : kernel_width);
"""
_POOLING = (
    "int32 height, int32 width, int32 rows, int32 columns, int32 kernel_height, "
    "int32 kernel_width, int32 stride_down, int32 stride_right, int32 pad_top, int32 pad_left"
)
_AVERAGING = f"{_POOLING}, int32 pad_bottom, int32 pad_right"
_UNFOLDING = (
    "int32 images, int32 channels, int32 height, int32 width, int32 rows, int32 columns, "
    "int32 kernel_height, int32 kernel_width, int32 stride_down, int32 stride_right, "
    "int32 pad_top, int32 pad_left, int32 dilation_down, int32 dilation_right"
)

OF_WINDOWS = {
    "max_pool": Elementwise(
        f"raw T x, {_POOLING}",
        "T y, int64 place",
        f"""
        {_WINDOW_OF_OUTPUT} {_PIXELS_OF_WINDOW}
        const Index image = plane * height * width;
        Index best = first_y * width + first_x;
        T largest = x[image + best];
        for (Index v = first_y; v < end_y; ++v) {{
            for (Index u = first_x; u < end_x; ++u) {{
                const T value = x[image + v * width + u];
                if (value > largest) {{
                    largest = value;
                    best = v * width + u;
                }}
            }}
        }}
        y = largest;
        place = best;
        """,
    ),
    "max_pool_slope": Elementwise(
        f"raw int64 place, raw T dy, {_POOLING}",
        "T dx",
        f"""
        {_WINDOWS_OF_PIXEL}
        const Index pixel = n % (height * width);
        T total = 0;
        for (Index row = first_row; row < end_row; ++row) {{
            for (Index column = first_column; column < end_column; ++column) {{
                const Index window = (plane * rows + row) * columns + column;
                if (place[window] == pixel) {{
                    total += dy[window];
                }}
            }}
        }}
        dx = total;
        """,
    ),
    "average_pool": Elementwise(
        f"raw T x, {_AVERAGING}",
        "T y",
        f"""
        {_WINDOW_OF_OUTPUT} {_PIXELS_OF_WINDOW} {_SIZE_OF_WINDOW}
        T total = 0;
        for (Index v = first_y; v < end_y; ++v) {{
            for (Index u = first_x; u < end_x; ++u) {{
                total += x[(plane * height + v) * width + u];
            }}
        }}
        y = total / positions;
        """,
    ),
    "average_pool_slope": Elementwise(
        f"raw T dy, {_AVERAGING}",
        "T dx",
        f"""
        {_WINDOWS_OF_PIXEL}
        T total = 0;
        for (Index row = first_row; row < end_row; ++row) {{
            for (Index column = first_column; column < end_column; ++column) {{
                {_SIZE_OF_WINDOW}
                total += dy[(plane * rows + row) * columns + column] / positions;
            }}
        }}
        dx = total;
        """,
    ),
    # From images to matrix[channel, v, u, image, row, column]: the pixel at (v, u) of each window.
    "unfold": Elementwise(
        f"raw T x, {_UNFOLDING}",
        "raw T matrix",
        """
        const Index n = i, windows = rows * columns;
        const Index window = n % windows, image = n / windows % images;
        const Index channel = n / windows / images;
        const Index top = window / columns * stride_down - pad_top;
        const Index left = window % columns * stride_right - pad_left;
        const Index from = (image * channels + channel) * height * width;
        Index to = channel * kernel_height * kernel_width * images * windows
                 + image * windows + window;
        for (Index v = 0; v < kernel_height; ++v) {
            for (Index u = 0; u < kernel_width; ++u) {
                const Index y = top + v * dilation_down, z = left + u * dilation_right;
                const bool inside = y >= 0 && y < height && z >= 0 && z < width;
                matrix[to] = inside ? x[from + y * width + z] : (T)0;
                to += images * windows;
            }
        }
        """,
    ),
    # And back: to each pixel the sum of all places of the matrix that it went to.
    "fold": Elementwise(
        f"raw T matrix, {_UNFOLDING}",
        "T x",
        """
        const Index n = i, windows = rows * columns;
        const Index right = n % width + pad_left, down = n / width % height + pad_top;
        const Index channel = n / width / height % channels;
        const Index image = n / width / height / channels;
        T total = 0;
        for (Index v = 0; v < kernel_height; ++v) {
            const Index y = down - v * dilation_down, row = y / stride_down;
            if (y < 0 || y % stride_down || row >= rows) {
                continue;
            }
            for (Index u = 0; u < kernel_width; ++u) {
                const Index z = right - u * dilation_right, column = z / stride_right;
                if (z < 0 || z % stride_right || column >= columns) {
                    continue;
                }
                const Index tap = (channel * kernel_height + v) * kernel_width + u;
                total += matrix[(tap * images + image) * windows + row * columns + column];
            }
        }
        x = total;
        """,
    ),
}
