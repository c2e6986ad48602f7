"""What the service knows: accounts, tokens, plans, key sets and jobs, in SQLite. Files are others' business.

Every method is one short transaction and safe to call from any thread; what it changed is on the disk when it returns.
All raise `StorageError` where the disk is full or fails, and have then changed nothing.
"""

from __future__ import annotations

from fheinfer.service.accounts import DAY, MAX_JOBS, MAX_KEY_BYTES, Accounts
from fheinfer.service.key_sets import KeySets, Plans
from fheinfer.service.queue import BURST, Queue
from fheinfer.service.rows import Account, JobRow, KeySetRow, PlanRow, TokenRow

__all__ = [
    "BURST",
    "DAY",
    "FILE_NAME",
    "MAX_JOBS",
    "MAX_KEY_BYTES",
    "Account",
    "JobRow",
    "KeySetRow",
    "PlanRow",
    "Store",
    "TokenRow",
]

FILE_NAME = "service.db"


class Store(Accounts, Plans, KeySets, Queue):
    """The database in the file `path`, made where it is missing. `account` is an account's id everywhere.

    Raises:
        StorageError: it cannot be opened, or is damaged.
        MismatchError: written by a newer version.
    """
