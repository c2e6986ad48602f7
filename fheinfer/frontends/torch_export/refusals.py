"""What is not supported, and what to use instead."""

from __future__ import annotations

_NORM = "normalises by statistics of its input; use batch norm with running statistics instead"
_LOOP = "is control flow; unroll it, or decide outside the network"
_ROUND = "is not continuous, and no polynomial is close to it; leave it to the client"
_TOKEN = "looks up entries by numbers of the input; give the network the entries themselves"
_RECURRENT = "is recurrent; unroll it into linear layers and activations, or use convolutions"
_FUNCTION = "is no activation that is supported; use one of those in docs/reference/operations.md"
_ATTENTION = (
    "multiplies two matrices that both depend on the input, as attention does; only products with constant matrices "
    "are supported"
)
_SOFTMAX = "is in the middle of the network; only one over the classes at the output is supported, done by the client"
_NUMBER = (
    "is `.item()`, `int()`, `float()` or `bool()` of a value that depends on the input, which nobody knows while it is "
    "encrypted; compute with the tensor itself, or decide outside the network"
)
_RANDOM = "is random; call net.eval(), or leave it out"

ADVICE: dict[str, str] = {
    **dict.fromkeys(("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm"), _NORM),
    **dict.fromkeys(("local_response_norm", "rms_norm", "norm", "linalg_vector_norm", "var", "std", "var_mean"), _NORM),
    **dict.fromkeys(("item", "_local_scalar_dense"), _NUMBER),
    **dict.fromkeys(("cond", "while_loop", "map_impl", "scan", "associative_scan"), _LOOP),
    **dict.fromkeys(
        ("argmax", "argmin", "topk", "sort", "floor", "ceil", "round", "sign", "trunc", "heaviside"), _ROUND
    ),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "where", "masked_fill", "threshold", "hardshrink"), _ROUND),
    **dict.fromkeys(("logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "remainder"), _ROUND),
    **dict.fromkeys(("embedding", "embedding_bag", "gather", "scatter", "index_put", "one_hot", "bincount"), _TOKEN),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell"), _RECURRENT),
    **dict.fromkeys(("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tan", "atan", "erf", "reciprocal"), _FUNCTION),
    **dict.fromkeys(("log_sigmoid", "softshrink", "log2", "log10", "log1p", "expm1", "sinh", "cosh"), _FUNCTION),
    **dict.fromkeys(("scaled_dot_product_attention", "einsum", "baddbmm", "_native_multi_head_attention"), _ATTENTION),
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax", "softmin"), _SOFTMAX),
    **dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "randint", "bernoulli", "native_dropout"), _RANDOM),
    **dict.fromkeys(("prod", "cumprod"), "multiplies all entries of an axis; multiply two values at a time"),
    **dict.fromkeys(("cumsum",), "sums up step by step; use a linear layer with a triangular weight"),
    **dict.fromkeys(("maximum", "minimum", "min", "amin"), "compares two values; use a max pool, or relu(a - b) + b"),
    **dict.fromkeys(("lp_pool1d", "lp_pool2d"), "is a pool by powers and roots; use an average pool"),
    **dict.fromkeys(("fft_fft", "fft_rfft", "stft"), "has complex numbers; use a linear layer"),
}
"""Operation of PyTorch -> why it is refused, and what to do."""

ANY = "is not supported; docs/reference/operations.md lists what is"
