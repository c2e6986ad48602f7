"""Convolutions and batch norm."""

from __future__ import annotations

import numpy as np

from fheinfer.frontends.onnx.call import Call, Handler
from fheinfer.frontends.onnx.translation import Operand
from fheinfer.frontends.onnx.windows import as_image, from_image, windows
from fheinfer.frontends.translation import Value
from fheinfer.model.ops import BatchNorm, Conv2d, ConvTranspose2d


def convolution(c: Call) -> Value:
    """Conv of one or two dimensions."""
    x, space = as_image(c)
    weight, bias = c.constant(1, "the weight"), c.optional(2, "the bias")
    if weight.ndim != space + 2:
        c.fail(f"has a weight of {weight.shape} for a value of {space} dimensions in space")
    w = windows(c, space, weight.shape[2:], x.shape)
    if space == 1:
        weight = weight[:, :, None]
    groups = int(c.get("group", 1))
    if weight.shape[1] * groups != x.shape[1]:
        c.fail(f"has a weight of {weight.shape} in {groups} groups for {x.shape[1]} channels")
    op = Conv2d(
        *(weight.shape[0], w.kernel, w.stride, w.sides),
        c.tensor("weight", weight),
        None if bias is None else c.tensor("bias", bias),
        w.dilation,
        groups,
    )
    return from_image(c, c.emit(op, x), space)


def transposed_convolution(c: Call) -> Value:
    """ConvTranspose of one or two dimensions."""
    x, space = as_image(c)
    weight, bias = c.constant(1, "the weight"), c.optional(2, "the bias")
    groups = int(c.get("group", 1))
    if weight.ndim != space + 2 or weight.shape[0] != x.shape[1]:
        c.fail(f"has a weight of {weight.shape} for a value of the shape {x.shape}")
    kernel, size = weight.shape[2:], x.shape[-space:]
    stride, dilation = list(c.get("strides", [1] * space)), list(c.get("dilations", [1] * space))
    added = list(c.get("output_padding", [0] * space))
    pads = list(c.get("pads", [0] * 2 * space))
    auto, wanted = c.get("auto_pad", "NOTSET"), c.get("output_shape")
    for i in range(space):
        full = (size[i] - 1) * stride[i] + added[i] + dilation[i] * (kernel[i] - 1) + 1
        if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
            total = full - (list(wanted)[-space:][i] if wanted is not None else size[i] * stride[i])
            if total < 0:
                added[i], total = added[i] - total, 0
            small = total // 2
            first = small if auto == "SAME_UPPER" else total - small
            pads[i], pads[space + i] = first, total - first
        elif auto == "VALID":
            pads[i] = pads[space + i] = 0
    lead = 2 - space
    op = ConvTranspose2d(
        weight.shape[1] * groups,
        (1,) * lead + tuple(kernel),
        (1,) * lead + tuple(stride),
        (0, 0) * lead + tuple(pad for i in range(space) for pad in (pads[i], pads[space + i])),
        c.tensor("weight", weight[:, :, None] if space == 1 else weight),
        None if bias is None else c.tensor("bias", bias),
        (1,) * lead + tuple(dilation),
        groups,
        (0,) * lead + tuple(added),
    )
    return from_image(c, c.emit(op, x), space)


def batch_norm(c: Call) -> list[Operand | None]:
    """Batch norm with running statistics; axis 1 has the channels."""
    if c.get("training_mode") or c.get("spatial", 1) == 0:
        c.fail("is in training mode, or not per channel; export the model in evaluation mode (model.eval())")
    x, eps = c.value(), float(c.get("epsilon", 1e-5))
    names = ("weight", "bias", "mean", "var")
    weight, bias, mean, var = (c.constant(i, name) for i, name in enumerate(names, 1))
    if len(x.shape) < 2 or any(array.shape != (x.shape[1],) for array in (weight, bias, mean, var)):
        c.fail(f"has statistics that do not fit a value of the shape {x.shape}")
    if (var < 0).any():
        c.fail("has a negative variance; export the model again")
    if x.batch == 0 and 1 <= len(x.inner) <= 3 and len(x.shape) >= 2:
        tensors = [c.tensor(name, array) for name, array in zip(names, (weight, bias, mean, var), strict=True)]
        outputs: list[Operand | None] = [c.emit(BatchNorm(eps, *tensors), x)]
    else:
        shape = (-1, *[1] * (len(x.shape) - 2))
        factor = weight.astype(np.float64) / np.sqrt(var.astype(np.float64) + eps)
        scaled = c.times(x, factor.reshape(shape))
        outputs = [c.plus(scaled, (bias - mean * factor).reshape(shape))]
    return outputs + [None] * (len(c.node.output) - 1)


LAYERS: dict[str, Handler] = {
    "BatchNormalization": batch_norm,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
}
