"""Training and fine-tuning of graphs in torch.

This package imports torch, at the top of most files; nothing outside it may import it at the top of a file.
"""
