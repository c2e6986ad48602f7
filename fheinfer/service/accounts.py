"""Accounts and their tokens."""

from __future__ import annotations

import hashlib
import re
import secrets

from fheinfer.errors import NotFoundError, UsageError
from fheinfer.service.database import Tables
from fheinfer.service.protocol import MODEL_NAME, TOKEN_PREFIX
from fheinfer.service.rows import Account, TokenRow, read_accounts

MAX_KEY_BYTES = 8 << 30
"""Bytes of keys that a new account may have."""
MAX_JOBS = 50
"""Jobs of a new account that may wait or run at once."""
DAY = 24 * 3600.0
_TOKEN_ID = "substr(lower(hex(sha256)), 1, 8)"


class Accounts(Tables):
    """Part of `store.Store`."""

    def add_token(
        self,
        name: str,
        *,
        operator: bool = False,
        days: float = 90,
        max_key_bytes: int | None = None,
        max_jobs: int | None = None,
    ) -> str:
        """A new token for the account of that name, which is made where there is none. The token is not stored.

        Args:
            max_key_bytes, max_jobs: the account's limits from now on; those that it has (or `MAX_KEY_BYTES`,
                `MAX_JOBS`) by default.

        Raises:
            UsageError: a name or a number that cannot be, or an account that is (not) an operator's.
        """
        if not re.fullmatch(MODEL_NAME, name):
            raise UsageError("the name of an account has 1 to 64 letters, digits, dots, - and _")
        if not 0 < days <= 36500 or not all(
            limit is None or 0 <= limit < 1 << 62 for limit in (max_key_bytes, max_jobs)
        ):
            raise UsageError("a token is valid for up to 36500 days, and limits are not negative")
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._transaction() as sql:
            sql.execute(
                "INSERT INTO accounts (id, name, operator, max_key_bytes, max_jobs) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (name) DO NOTHING",
                (secrets.token_hex(16), name, operator, MAX_KEY_BYTES, MAX_JOBS),
            )
            account = read_accounts(sql, "name = ?", name)[0]
            if account.operator != operator:
                what = "an operator" if account.operator else "no operator"
                raise UsageError(f"the account {name} is {what}; choose another name")
            sql.execute(
                "UPDATE accounts SET max_key_bytes = ifnull(?, max_key_bytes), max_jobs = ifnull(?, max_jobs) "
                "WHERE id = ?",
                (max_key_bytes, max_jobs, account.id),
            )
            now = self.now()
            sql.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, NULL)", (_hash(token), account.id, now, now + days * DAY)
            )
        return token

    def account_of(self, token: str) -> Account | None:
        """Whose token this is; None where it is nobody's, expired or revoked."""
        known = "id IN (SELECT account FROM tokens WHERE sha256 = ? AND revoked IS NULL AND expires > ?)"
        with self._transaction() as sql:
            found = read_accounts(sql, known, _hash(token), self.now())
        return found[0] if found else None

    def tokens(self) -> list[TokenRow]:
        """All tokens, by account and age."""
        with self._transaction() as sql:
            rows = sql.execute(
                f"SELECT {_TOKEN_ID}, account, name, operator, created, expires, revoked, "
                "(SELECT ifnull(sum(bytes), 0) FROM key_sets WHERE key_sets.account = accounts.id), max_key_bytes, "
                "(SELECT count(*) FROM jobs WHERE jobs.account = accounts.id AND state != 'cancelled'), max_jobs "
                "FROM tokens JOIN accounts ON accounts.id = account ORDER BY name, created"
            )
            return [TokenRow(token, owner, name, bool(boss), *rest) for token, owner, name, boss, *rest in rows]

    def revoke(self, name: str, token: str | None = None, *, delete: bool = False) -> int:
        """Revokes all valid tokens of an account, or the one with that id, and says how many.

        Args:
            delete: also cancel its jobs, and let what they and its keys have on the disk be over its time: the service
                deletes it at its next look (`Retention.sweep`).

        Raises:
            NotFoundError: no account of that name, or no such token of it.
        """
        with self._transaction() as sql:
            found = read_accounts(sql, "name = ?", name)
            if not found:
                raise NotFoundError("no account of that name; `fheinfer serve token list` has them all")
            account, now = found[0].id, self.now()
            which, values = f"account = ? AND {_TOKEN_ID} = ifnull(?, {_TOKEN_ID})", (account, token)
            if token and not sql.execute(f"SELECT 1 FROM tokens WHERE {which}", values).fetchone():
                raise NotFoundError(f"{name} has no such token; `fheinfer serve token list` has the ids of all")
            if delete:
                sql.execute("UPDATE key_sets SET used = 0 WHERE account = ?", (account,))
                sql.execute(
                    "UPDATE jobs SET finished = 0, state = CASE WHEN state IN ('queued', 'running') THEN 'cancelled' "
                    "ELSE state END WHERE account = ?",
                    (account,),
                )
            return sql.execute(
                f"UPDATE tokens SET revoked = ? WHERE {which} AND revoked IS NULL", (now, *values)
            ).rowcount


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
