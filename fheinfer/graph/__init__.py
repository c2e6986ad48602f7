"""The network as a graph: `ir` holds nodes and shapes, `verify` says what a legal graph is."""
