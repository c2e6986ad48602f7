"""Products of a value and constant matrices."""

from __future__ import annotations

import numpy as np

from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.onnx.translation import Operand
from fheinfer.frontends.translation import Array, Value
from fheinfer.model.ops import Add, Conv2d, Linear


def gemm(c: Call) -> Operand:
    """alpha A' B' + beta C, one of A and B constant."""
    alpha, beta = float(c.get("alpha", 1.0)), float(c.get("beta", 1.0))
    a, b, bias = c.operand(0), c.operand(1), c.operand(2)
    if a is None or b is None:
        c.fail("has an operand that is absent; export the model again")
    a, b = (_transposed(c, x) if c.get(name) else x for x, name in ((a, "transA"), (b, "transB")))
    if alpha != 1:
        a, b = (a * alpha, b) if not isinstance(a, Value) else (a, b * alpha) if not isinstance(b, Value) else (a, b)
    if bias is None or beta == 0:
        return _product(c, a, b)
    per_output = not isinstance(bias, Value) and bias.ndim > 0 and bias.size == bias.shape[-1] == b.shape[-1]
    if per_output and isinstance(a, Value):
        return _product(c, a, b, beta * np.reshape(np.asarray(bias), -1))
    y = _product(c, a, b)
    if isinstance(bias, Value):
        return c.emit(Add(), *c.t.common(y, c.times(bias, beta)))
    return c.plus(y, beta * bias)


def _transposed(c: Call, x: Operand) -> Operand:
    return c.t.transpose(x, (1, 0)) if isinstance(x, Value) else x.T


def matrix_product(c: Call) -> Operand:
    """MatMul of a value and a constant."""
    a, b = c.operand(0), c.operand(1)
    if a is None or b is None:
        c.fail("has an operand that is absent; export the model again")
    return _product(c, a, b)


def _product(c: Call, a: Operand, b: Operand, bias: Array | None = None) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        c.fail(
            "multiplies two matrices that both depend on the input, as attention does; only products with constant "
            "matrices are supported"
        )
    if isinstance(a, Value):
        matrix = np.asarray(b)
        y = _rows(c, a, matrix if matrix.ndim > 1 else matrix[:, None], bias)
        return y if matrix.ndim > 1 else _squeeze(c, y, -1)
    if not isinstance(b, Value):
        c.fail("has no operand that depends on the input")
    matrix = a.swapaxes(-1, -2) if a.ndim > 1 else a[:, None]  # y = a b is y^T = b^T a^T
    y = _rows(c, _flip(c, b), matrix, None)
    y = y if len(b.shape) == 1 else _flip(c, y)
    return y if a.ndim > 1 else _squeeze(c, y, -2 if len(b.shape) > 1 else -1)


def _flip(c: Call, x: Value) -> Value:
    if len(x.shape) < 2:
        return x
    order = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
    return c.t.transpose(x, order)


def _squeeze(c: Call, x: Value, axis: int) -> Value:
    axis %= len(x.shape)
    batch = x.batch
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    if batch is not None:
        batch = None if batch == axis else batch - (batch > axis)
    return c.t.reshape(x, shape, batch)


def _rows(c: Call, x: Value, matrix: Array, bias: Array | None) -> Value:
    """x (..., K) times a matrix (K, M), or times matrices (..., K, M), a linear layer on the last axis."""
    if matrix.shape[-2] != x.shape[-1]:
        c.fail(f"multiplies a value of the shape {x.shape} by a matrix of {matrix.shape}")
    if x.batch == len(x.shape) - 1:
        x = c.t.with_batch(x, None)
    while matrix.ndim > 2 and matrix.shape[0] == 1 and len(x.shape) >= matrix.ndim:
        matrix = matrix[0]
    if matrix.ndim > 2:
        return _many_matrices(c, x, matrix)
    features, out = matrix.shape
    result = (*x.shape[:-1], out)
    count = int(np.prod(x.inner)) // features
    if count == 1:  # nothing but the last axis
        op = Linear(out, c.tensor("weight", matrix.T), None if bias is None else c.tensor("bias", bias))
        return c.emit(op, x, shape=result, batch=x.batch)
    flat = c.t.reshape(x, (1, count, features), 0)
    image = c.t.reshape(c.t.transpose(flat, (0, 2, 1)), (1, features, count, 1), 0)
    weight = c.tensor("weight", matrix.T[:, :, None, None])
    y = c.emit(Conv2d(out, 1, 1, 0, weight, None if bias is None else c.tensor("bias", bias)), image)
    back = c.t.transpose(c.t.reshape(y, (1, out, count), 0), (0, 2, 1))
    return c.t.reshape(back, result, x.batch)


def _many_matrices(c: Call, x: Value, matrix: Array) -> Value:
    """A matrix of its own for each entry of the leading axes: one convolution in as many groups."""
    lead = np.broadcast_shapes(x.shape[:-2] or (1,), matrix.shape[:-2])
    rows = x.shape[-2] if len(x.shape) > 1 else 1
    features, out = matrix.shape[-2:]
    x = c.t.expand(c.t.reshape(x, (rows, features), None) if len(x.shape) == 1 else x, (*lead, rows, features))
    count = int(np.prod(lead))
    matrix = np.broadcast_to(matrix, (*lead, features, out)).reshape(count, features, out)
    batch = x.batch if x.batch is not None and x.batch < len(lead) else None
    x = c.t.reshape(c.t.with_batch(x, batch), (1, count, rows, features), 0)
    image = c.t.reshape(c.t.transpose(x, (0, 1, 3, 2)), (1, count * features, rows, 1), 0)
    weight = matrix.transpose(0, 2, 1).reshape(count * out, features, 1, 1)
    y = c.emit(Conv2d(count * out, 1, 1, 0, c.tensor("weight", weight), groups=count), image)
    back = c.t.transpose(c.t.reshape(y, (1, count, out, rows), 0), (0, 1, 3, 2))
    return c.t.reshape(back, (*lead, rows, out), batch)


MATRICES: dict[str, Handler] = {"Gemm": gemm, "MatMul": matrix_product}
