"""Every way a step can end badly, and what the state machine does about it.

Step Functions compares an error's *name*, never its class: `statemachine/` retries exactly the leaves of `Retryable`
and catches everything else once per scope. Renaming a class here silently turns a retry off, so a contract test
compares both.

A leaf exists per decision that somebody takes (the state machine, or the person who reads the page), not per cause;
its name is the situation, because it is read in the execution's history. The message says what to do.
"""

import json

MESSAGE_BYTES = 20_000
"""Of a message as JSON has it. Step Functions gives 32,768 characters to a cause, the stack trace among them."""


class RotationError(Exception):
    """Base of every error that a step raises on purpose. What would be too long for a cause is cut off its message."""

    def __init__(self, message: str = "") -> None:
        whole = message
        while len(json.dumps(message)) > MESSAGE_BYTES:
            message = message[: len(message) * 3 // 4]
        super().__init__(message if message == whole else f"{message}…")


class Retryable(RotationError):
    """The same call may succeed a moment later; every step may be repeated."""


class Terminal(RotationError):
    """Trying again would not help or would do harm: the rotation rolls back, or a person decides."""


# -- retryable -------------------------------------------------------------------------------------------------------


class AwsUnavailable(Retryable):
    """AWS throttled the call, failed inside, or the answer did not arrive; whether it took effect is unknown."""


class DatabaseUnreachable(Retryable):
    """A database server did not accept the connection, or ended it in the middle."""


class JournalMoved(Retryable):
    """A second delivery of the step, or an attempt given up, has written the journal: the step reads it and goes on."""


# -- terminal: nothing has been created ------------------------------------------------------------------------------


class InputRefused(Terminal):
    """The execution's input or a tag of the database has an unknown name or a value that means nothing."""


class UnknownDatabase(Terminal):
    """No database of that name exists, and no rotation in the ledger leads from that name to one."""


class RotationInProgress(Terminal):
    """Another rotation of the same database holds the lock."""


class PreflightRefused(Terminal):
    """Something about this database, its clients or this account forbids the rotation; the message lists all of it."""


class FleetIncomplete(Terminal):
    """At least one opted-in database was not rotated, or none could be started; the message lists them."""


class RecoveryIncomplete(Terminal):
    """The hourly look has not read, or not looked at in time, or not recovered a rotation that the ledger shows."""


# -- terminal: authority ---------------------------------------------------------------------------------------------


class AccessRefused(Terminal):
    """AWS denied a call to the step's own role; the permission matrix and the account disagree."""


class AwsRefused(Terminal):
    """AWS refused a call for a reason that repeating it does not change. ``code`` is AWS's own word for it."""

    def __init__(self, message: str = "", code: str = "") -> None:
        super().__init__(message)
        self.code = code


class LoginRefused(Terminal):
    """The database refused the rotation's login, or a right that the procedure needs."""


class SqlRefused(Terminal):
    """The database refused a statement for a reason that nobody expected. ``state`` is the SQLSTATE."""

    def __init__(self, state: str, message: str, detail: str = "") -> None:
        super().__init__(f"{message} ({state})")
        self.state = state
        self.detail = detail


class EpochSuperseded(Terminal):
    """Recovery or rollback has taken this rotation over; whatever this step still wanted to do must not happen."""


class RecoveryExhausted(Terminal):
    """A recovery of this rotation has failed already and is not tried again by itself: a person looks at it."""


class StateIncomplete(Terminal):
    """The state lacks a part that the step needs: the state machine or its input is wrong."""


class SnapshotFailed(Terminal):
    """RDS has given up a snapshot or its copy, or made the copy under another key: there is nothing to rely on."""


# -- terminal: before the fence --------------------------------------------------------------------------------------


class NameTaken(Terminal):
    """A resource of the intended name exists and was not made by this rotation."""


class DefaultKeyPolicy(Terminal):
    """The new key would get KMS's own policy: the old key's cannot be read, or KMS does not take it for a new key."""


class ReplicaKeyRefused(Terminal):
    """RDS does not make a replica of this database under another KMS key (facts: run-time probe P1)."""


class DeploymentRefused(Terminal):
    """RDS makes no blue/green deployment of this database under another KMS key (facts: run-time probe P2)."""


class WrongKey(Terminal):
    """The target is not encrypted under the new key; promoting it would complete a rotation that did not happen."""


class SettingsNotCarried(Terminal):
    """A setting of the source could not be given to the target."""


class SyncIncomplete(Terminal):
    """The target, or the source before a snapshot, was not ready for the fence within the time that is given to it."""


class CatchUpFailed(Terminal):
    """The restored target cannot catch up: from where is not known, or the source no longer has what it lacks."""


class ConnectivityChanged(Terminal):
    """The record or secret that leads applications to the database is not what this rotation wrote down."""


# -- terminal: fence, drain, promotion -------------------------------------------------------------------------------


class FenceIncomplete(Terminal):
    """Sessions, prepared transactions or starting connections outlasted the time given to the fence."""


class FenceBroken(Terminal):
    """A database that was fenced accepts connections again, or a database appeared that was never fenced."""


class BudgetSpent(Terminal):
    """Applications have not been able to write for as long as the plan allows, and no target is ready: it ends here."""


class DrainIncomplete(Terminal):
    """The target has not replayed the fence position within the write outage budget; promoting would lose commits."""


class PromotionFailed(Terminal):
    """RDS refused or failed the promotion, or did not finish it in time."""


class RestoreFailed(Terminal):
    """RDS accepted the restore of the target and gave it up; the source is the truth as before."""


class SwitchoverFailed(Terminal):
    """RDS refused the switchover of a blue/green deployment, or rolled it back; blue serves as before."""


class TargetMismatch(Terminal):
    """The target does not continue the source (identity, position, databases, roles), or its key is not enabled."""


class DecisionLost(Terminal):
    """The other verdict (release or rollback) already stands in the decision row; this one does nothing."""


# -- terminal: after the commit point --------------------------------------------------------------------------------


class NotOpened(Terminal):
    """RDS does not give a released target its security groups back; a person does, and nothing is undone."""


class VerificationFailed(Terminal):
    """After the cutover something is not as it should be; a person looks at it, nothing is undone or deleted."""


class BackupsNotReplicated(Terminal):
    """RDS does not replicate the target's automated backups to another Region, as it did the source's."""


class ReplicasNotRebuilt(Terminal):
    """A replica of the source has no successor under its name: its readers wait, and a person looks at it."""


class RetirementRefused(Terminal):
    """The source or a key may not be removed: the live facts do not establish the right to."""
