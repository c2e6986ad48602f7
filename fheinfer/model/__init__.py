"""The network: operations, graph, verifier and the model file."""
