"""Every error a peer, a command or an operator can meet, in one tree.

    MirrorError
    ├── ConfigurationError        MIRROR is wrong; found by the system checks
    ├── LocalProtocolError        our own side broke the protocol: a defect
    ├── RemoteProtocolError       the other side broke the protocol
    │   ├── Malformed  Corrupt  Oversized  Unexpected  Gap  AckBeyondSent  Silent
    ├── Refusal                   the other side is understood, and told no
    │   ├── UnsupportedProtocol  Unauthorized  UnknownStream
    │   ├── Pruned  Incomplete  Forked (Doubled)  Superseded
    ├── Busy                      not now: too much is waiting
    ├── Resync                    the log is no help: rows are loaded
    ├── ReadOnly                  somebody else than apply would write to a mirrored table
    └── ApplyError                the mirror cannot apply what it received
        ├── UnknownModel  UnknownField  ModelOwned  MissingParent  WrongValue  ConstraintFailed

``code`` is stable and travels on the wire; ``close_code`` closes the WebSocket; ``retryable`` says
whether trying again later, unchanged, can succeed.
"""

from __future__ import annotations

__all__ = [
    "CODES",
    "AckBeyondSent",
    "ApplyError",
    "Busy",
    "ConfigurationError",
    "ConstraintFailed",
    "Corrupt",
    "Doubled",
    "Forked",
    "Gap",
    "Incomplete",
    "LocalProtocolError",
    "Malformed",
    "MirrorError",
    "MissingParent",
    "ModelOwned",
    "Oversized",
    "Pruned",
    "ReadOnly",
    "Refusal",
    "RemoteProtocolError",
    "Resync",
    "Silent",
    "Superseded",
    "Unauthorized",
    "Unexpected",
    "UnknownField",
    "UnknownModel",
    "UnknownStream",
    "UnsupportedProtocol",
    "WrongValue",
]


class MirrorError(Exception):
    """Something went wrong."""

    code = "error"
    #: 4000 and above: autobahn, and so daphne, sends none of the protocol's own codes but 1000.
    close_code = 4500
    retryable = True

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (type(self).__doc__ or "").strip())


class ConfigurationError(MirrorError):
    """The MIRROR setting is wrong."""

    code = "configuration"
    retryable = False


class LocalProtocolError(MirrorError):
    """This side tried to send what the protocol does not allow now."""

    code = "internal"
    retryable = False


class RemoteProtocolError(MirrorError):
    """The other side broke the protocol."""

    code = "protocol"
    close_code = 4400


class Malformed(RemoteProtocolError):
    """The frame is not a message of this protocol."""

    code = "malformed"


class Corrupt(RemoteProtocolError):
    """The compressed frame is broken, not whole, or followed by something."""

    code = "corrupt"


class Oversized(RemoteProtocolError):
    """The frame, or the change it carries, is over the limit."""

    code = "oversized"
    close_code = 4413


class Unexpected(RemoteProtocolError):
    """The message does not belong in this state."""

    code = "unexpected"


class Gap(RemoteProtocolError):
    """Changes are missing, repeated or out of order."""

    code = "gap"


class AckBeyondSent(RemoteProtocolError):
    """The acknowledgement names something that was never sent, or goes back."""

    code = "ack_beyond_sent"


class Silent(RemoteProtocolError):
    """The other side has said nothing for too long."""

    code = "silent"
    close_code = 4408


class Refusal(MirrorError):
    """The request was understood and refused."""

    code = "refused"
    close_code = 4403
    retryable = False


class UnsupportedProtocol(Refusal):
    """The subprotocol livemirror.v1 was not offered."""

    code = "unsupported_protocol"
    close_code = 4406


class Unauthorized(Refusal):
    """The token is missing, wrong or revoked."""

    code = "unauthorized"
    close_code = 4401


class UnknownStream(Refusal):
    """No such stream is recorded here."""

    code = "unknown_stream"
    close_code = 4404


class Pruned(Refusal):
    """The changes after this cursor are no longer in the oplog: a snapshot is needed."""

    code = "pruned"
    close_code = 4410


class Incomplete(Refusal):
    """The oplog does not tell of all rows from its start: a snapshot is needed."""

    code = "incomplete"
    close_code = 4411


class Forked(Refusal):
    """The cursor belongs to another history than the one recorded here: a snapshot is needed."""

    code = "forked"
    close_code = 4409


class Doubled(Forked):
    """The stream is recorded or followed here already."""

    code = "doubled"


class Superseded(Refusal):
    """A newer connection or process follows this source now."""

    code = "superseded"
    close_code = 4412


class Resync(MirrorError):
    """The log cannot bring this mirror level: the rows are loaded as they are."""

    code = "resync"


class Busy(MirrorError):
    """Too many changes wait for their place in the order."""

    code = "busy"


class ReadOnly(MirrorError):
    """Mirrored tables are not written to on this server."""

    code = "read_only"
    retryable = False


class ApplyError(MirrorError):
    """A change cannot be applied here."""

    code = "apply_failed"
    retryable = False


class UnknownModel(ApplyError):
    """The model is not installed here, or not mirrored."""

    code = "unknown_model"


class UnknownField(ApplyError):
    """The change carries a field that the model does not have here."""

    code = "unknown_field"


class ModelOwned(ApplyError):
    """Another source already writes this model, whose rows are matched by integer keys."""

    code = "model_owned"


class MissingParent(ApplyError):
    """The row points at a parent that is not here."""

    code = "missing_parent"


class WrongValue(ApplyError):
    """The field does not take this value."""

    code = "wrong_value"


class ConstraintFailed(ApplyError):
    """The database refused the rows."""

    code = "constraint_failed"


def _tree(root: type[MirrorError]) -> list[type[MirrorError]]:
    return [root, *(leaf for branch in root.__subclasses__() for leaf in _tree(branch))]


#: Every stable code and the class that carries it.
CODES: dict[str, type[MirrorError]] = {error.code: error for error in reversed(_tree(MirrorError))}
