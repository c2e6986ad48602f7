"""Parameter sets, keys, artifacts and files."""
