"""What is not supported, and what to use instead."""

from __future__ import annotations

_NORM = "normalises by statistics of its input; use BatchNormalization with running statistics instead"
_LOOP = "is control flow that depends on the input; unroll it before the export"
_ROUND = "is not continuous, and no polynomial is close to it; leave it to the client"
_TOKEN = "looks up entries by encrypted indices; give the network the entries themselves"
_RECURRENT = "is recurrent; unroll it into MatMul, Add, Sigmoid and Tanh, or use convolutions"
_FUNCTION = "is no activation that is supported; use one of those in docs/reference/operations.md"
_LOW = "is quantised arithmetic; import the network in float32, with the numbers that it represents"

ADVICE: dict[str, str] = {
    **dict.fromkeys(("LRN", "InstanceNormalization", "LayerNormalization", "GroupNormalization"), _NORM),
    **dict.fromkeys(("RMSNormalization", "MeanVarianceNormalization", "LpNormalization", "ReduceL2", "LpPool"), _NORM),
    **dict.fromkeys(("If", "Loop", "Scan"), _LOOP),
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK", "Floor", "Ceil", "Round", "Sign", "Hardmax", "Shrink"), _ROUND),
    **dict.fromkeys(("ThresholdedRelu", "Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"), _ROUND),
    **dict.fromkeys(("Where", "And", "Or", "Not", "Xor", "Mod", "NonZero", "NonMaxSuppression"), _ROUND),
    **dict.fromkeys(("GatherElements", "GatherND", "ScatterND", "ScatterElements", "OneHot", "Embedding"), _TOKEN),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _RECURRENT),
    **dict.fromkeys(("Exp", "Log", "Sqrt", "Sin", "Cos", "Tan", "Atan", "Erf", "Softsign", "Reciprocal"), _FUNCTION),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"), _LOW),
    "Attention": "multiplies values that both depend on the input; only products with constant matrices are supported",
    "Einsum": "is not supported; use MatMul, Transpose and ReduceSum",
    "Softmax": "is in the middle of the network; only one at the output is supported, which the client computes",
    "LogSoftmax": "is in the middle of the network; only one at the output is supported, which the client computes",
}
"""ONNX operation -> why it is refused, and what to do."""

ANY = "is not supported; docs/reference/operations.md lists what is"
