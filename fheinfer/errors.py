"""Every error fheinfer raises on purpose.

FheinferError                     exit code 1
├── UsageError                    2   an argument, name or option that cannot be used
│   ├── UnknownSetError               no parameter set of that name
│   └── UnknownNetworkError           no network of that name
├── InputError                    3   something the user gave cannot be read
│   ├── ImageError                    not an image, or one too large to open safely
│   ├── WeightsError                  weights of a wrong shape, kind or with NaN
│   └── DatasetError                  a data folder that is missing or incomplete
├── ArtifactError                 4   a key, ciphertext or plan file that must not be used
│   ├── CorruptArtifactError          truncated, bit-flipped, not of our format
│   └── MismatchError                 intact, but of another set, key, network or version
├── KeyStoreError                 5   keys that are missing, exist already, or are too open
├── ResourceError                 6   memory, disk or permission
│   ├── NotEnoughMemoryError          asked before starting
│   └── StorageError                  disk full, read-only folder, failed write
├── PlanError                     7   a network and a set that do not fit together
│   ├── GraphError                    a graph that breaks a rule of `model.verify`
│   └── ParametersError               a set that has no primes, or less than 128 bits
├── RangeError                    8   an activation left the range its polynomial is valid on
├── BackendError                  9   the evaluator or OpenFHE refused an operation
│   └── WorkerLostError               an evaluating process that died, or hung and was ended
└── ServiceError                 10   a service, or the way to it
    ├── TokenError                    no token, or one that is not valid (any more)
    ├── LimitError                    more requests, jobs or bytes than this client may have
    ├── NotFoundError                 no such model, keys or job, or not this client's
    ├── JobError                      a job that is not done, failed or was cancelled
    ├── UnreachableError              no answer, or a connection that broke too often
    └── UntrustedServerError          a plan, signing key or receipt other than the one that was pinned

Each message is one line that says what to do. The command line prints it without a traceback
and exits with the code above.
"""

from __future__ import annotations


class FheinferError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(FheinferError):
    exit_code = 2


class UnknownSetError(UsageError):
    pass


class UnknownNetworkError(UsageError):
    pass


class InputError(FheinferError):
    exit_code = 3


class ImageError(InputError):
    pass


class WeightsError(InputError):
    pass


class DatasetError(InputError):
    pass


class ArtifactError(FheinferError):
    exit_code = 4


class CorruptArtifactError(ArtifactError):
    pass


class MismatchError(ArtifactError):
    pass


class KeyStoreError(FheinferError):
    exit_code = 5


class ResourceError(FheinferError):
    exit_code = 6


class NotEnoughMemoryError(ResourceError):
    pass


class StorageError(ResourceError):
    pass


class PlanError(FheinferError):
    exit_code = 7


class GraphError(PlanError):
    pass


class ParametersError(PlanError):
    pass


class RangeError(FheinferError):
    exit_code = 8


class BackendError(FheinferError):
    exit_code = 9


class WorkerLostError(BackendError):
    pass


class ServiceError(FheinferError):
    exit_code = 10


class TokenError(ServiceError):
    pass


class LimitError(ServiceError):
    pass


class NotFoundError(ServiceError):
    pass


class JobError(ServiceError):
    pass


class UnreachableError(ServiceError):
    pass


class UntrustedServerError(ServiceError):
    pass
