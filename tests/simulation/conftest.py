from tests.train.conftest import one_thread, sheets

__all__ = ["one_thread", "sheets"]
