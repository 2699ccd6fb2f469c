"""Notify: tell the operators what happened, answer the fleet, and close the ledger entry where the rotation ends."""

import json
from contextlib import suppress

from aws_lambda_powertools.metrics import MetricUnit

from lambdas.rotation.names import rotation_id_of
from lambdas.rotation.notification import message_of, subject_of
from lambdas.rotation.policy import task_token
from lambdas.rotation.ports import Ports
from lambdas.rotation.state import Failure, Moment, Rotation
from lambdas.rotation.step import logger, measure, step

_OUTCOMES = {
    Moment.COMPLETED: "rotated",
    Moment.ROLLED_BACK: "rolled-back",
    Moment.REFUSED: "refused",
    Moment.PLANNED: "planned",
}

CAUSE_LENGTH = 80
"""Of a failure's text, as a fleet hears it: a thousand of them have to fit into its state (256 KB), with the names of
databases and errors; `test_fleet` measures. The rotation's own notification has all of it."""


def notify(rotation: Rotation, ports: Ports) -> Rotation:
    """Publish the moment once, answer the fleet's token once, and at the end close the entry and free the lock.

    The moment follows from the state, not from which state of the machine calls. What was done is written down after
    each part, so a retry repeats at most the part whose answer got lost: a message may arrive twice, never not at all.
    """
    moment = rotation.moment
    if moment not in rotation.notified:
        ports.notifier.publish(moment.value, subject_of(rotation, moment), message_of(rotation, moment))
        logger.info("moment published", moment=moment.value)
        rotation = _written(rotation.having(notified=(*rotation.notified, moment)), ports)
        if moment is Moment.COMPLETED:
            measure(rotation, "RotationCompleted", MetricUnit.Count, 1)
        if moment is Moment.UNDECIDED:
            measure(rotation, "RotationUndecided", MetricUnit.Count, 1)
    token = task_token(rotation.request)
    if token is not None and not rotation.token_answered:
        _answer(token, rotation, moment, ports)
        rotation = _written(rotation.having(token_answered=True), ports)
    if moment in _OUTCOMES and rotation.plan is not None:
        ports.ledger.close(rotation, _OUTCOMES[moment])
        ports.ledger.release_lock(rotation)
    return rotation


def _answer(token: str, rotation: Rotation, moment: Moment, ports: Ports) -> None:
    """The cutover answers a fleet that waits: its next wave may begin while grace periods run.

    A start that has finished what an earlier one had left is no rotation of this time, and the report has to say so.
    """
    taken_up = not rotation.recovery and rotation.rotation_id != rotation_id_of(rotation.execution_arn)
    if moment in (Moment.CUT_OVER, Moment.COMPLETED) and taken_up:
        cause = f"this start has finished rotation {rotation.rotation_id}, which was left unfinished; start once more"
        ports.workflow.answer(token, None, error="RotationTakenUp", cause=cause)
    elif moment in (Moment.CUT_OVER, Moment.COMPLETED, Moment.PLANNED):
        outcome = {"moment": moment.value, "rotation_id": rotation.rotation_id, "target": rotation.target_identifier}
        ports.workflow.answer(token, outcome)
    else:
        failure = rotation.failure or Failure(Error=moment.value)
        ports.workflow.answer(token, None, error=failure.Error, cause=_beginning(failure.Cause))


def _beginning(cause: str) -> str:
    """On one line, in letters that take no more space in JSON.

    >>> _beginning('{"errorMessage": "LoginShared: others — two", "errorType": "PreflightRefused"}')
    'LoginShared: others ? two'
    """
    with suppress(ValueError, KeyError, TypeError):
        cause = json.loads(cause)["errorMessage"]  # as Lambda words it; other causes are plain text
    plain = " ".join(str(cause).split()).replace('"', "'").replace("\\", "/")
    return "".join(letter if " " <= letter <= "~" else "?" for letter in plain[:CAUSE_LENGTH])


def _written(rotation: Rotation, ports: Ports) -> Rotation:
    """Into the journal at once: the next part may fail, and this one must not be repeated for it."""
    if rotation.plan is not None:  # without a plan there is no ledger entry: StartRotation refused
        ports.ledger.record(rotation)
    return rotation


# Also after a Rollback that raised the epoch and then failed, with the state of before: people have to hear of that.
handler = step(notify, takes_over=True)
