"""Training and everything else that runs a graph in torch.

This package imports torch; nothing outside it may import it at the top of a file.
"""
