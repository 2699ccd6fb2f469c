"""CloudTrail: one event per call that was decided on, for LookupEvents.

Unlike CloudTrail's event history it also has data events (items, messages, invocations), and every event says in
``additionalEventData.authorizations`` which permissions were asked for, and with what answer.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moto.cloudtrail.responses import CloudTrailResponse
from moto.core.responses import ActionResult, BaseResponse

if TYPE_CHECKING:
    from sandbox.context import Context

MAX_RESULTS = 50
_READ_ONLY = re.compile(r"^(Get|List|Describe|Lookup|Head|Select|Query|Scan|BatchGet)")
_ERROR_CODE = re.compile(r'"__type":\s*"(?:[^"#]*#)?([^"]+)"|<Code>([^<]+)</Code>')
_ERROR_MESSAGE = re.compile(r'"[Mm]essage":\s*"([^"]*)"|<Message>([^<]*)</Message>')


@dataclass
class _Call:
    """What is known about a request while it is being served."""

    principal: Any = None
    service: str = ""
    operation: str = ""
    authorizations: list[dict[str, Any]] = field(default_factory=list)
    denial: str | None = None


@dataclass(frozen=True)
class _Service:
    arn: str
    account_id: str


_CALL: ContextVar[_Call | None] = ContextVar("call", default=None)


class Trail:
    """Records while :meth:`install` is in force; answers LookupEvents from what it recorded."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._undo: list[Callable[[], None]] = []

    def install(self) -> None:
        """After the authorizer's own install: this goes around what that put into moto."""
        trail, authorizer = self, self._context.authorizer
        decide, call_action = authorizer._decide, BaseResponse.call_action

        def noting_decide(request: Any, check: Any) -> None:
            call = _CALL.get()
            if call is None:
                return decide(request, check)
            call.principal, call.service, call.operation = request.principal, request.service, request.operation
            note = {"action": check.action, "resource": check.resource, "allowed": False}
            call.authorizations.append(note)
            try:
                decide(request, check)
            except Exception as denial:
                call.denial = str(denial)
                raise
            note["allowed"] = True
            return None

        def recording_call_action(response: Any) -> Any:
            call = _Call()
            token = _CALL.set(call)
            try:
                answer = call_action(response)
                trail._record(call, int(answer[0]), answer[2])
                return answer
            finally:
                _CALL.reset(token)

        authorizer._decide = noting_decide  # type: ignore[method-assign]
        BaseResponse.call_action = recording_call_action
        lookup = getattr(CloudTrailResponse, "lookup_events", None)
        CloudTrailResponse.lookup_events = lambda response: trail._lookup(response)

        def undo() -> None:
            authorizer._decide = decide  # type: ignore[method-assign]
            BaseResponse.call_action = call_action
            if lookup is None:
                del CloudTrailResponse.lookup_events
            else:
                CloudTrailResponse.lookup_events = lookup

        self._undo.append(undo)

    def uninstall(self) -> None:
        while self._undo:
            self._undo.pop()()

    # -- recording -----------------------------------------------------------------------------------------------------

    def _record(self, call: _Call, status: int, body: Any) -> None:
        if call.principal is None:
            return
        # A service that uses a key for its caller shows as a call of KMS of its own, invoked by that service.
        through = [one for one in call.authorizations if call.service != "kms" and one["action"].startswith("kms:")]
        own = [one for one in call.authorizations if one not in through]
        error = self._error(call, status, body)
        events = [self._event(call, call.service, call.operation, own, error, None)]
        events += [
            self._event(call, "kms", one["action"].removeprefix("kms:"), [one], None, f"{call.service}.amazonaws.com")
            for one in through
        ]
        with self._lock:
            self._events.extend(events)

    def note_use_by_rds(self, key_arn: str, operation: str) -> str:
        """RDS has used a key by itself, long after whoever asked for it; returns the id of the event."""
        note = {"action": f"kms:{operation}", "resource": key_arn, "allowed": True}
        principal = _Service("rds.amazonaws.com", self._context.account_id)
        event = self._event(_Call(principal, "kms", operation), "kms", operation, [note], None, principal.arn)
        with self._lock:
            self._events.append(event)
        return str(event["EventId"])

    @staticmethod
    def _error(call: _Call, status: int, body: Any) -> tuple[str, str] | None:
        if call.denial is not None:
            return "AccessDenied", call.denial
        if status < 400:
            return None
        text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
        code, message = _ERROR_CODE.search(text), _ERROR_MESSAGE.search(text)
        # Never the whole answer: moto puts the id of its own answer into whatever stands between <RequestId> and the
        # last </RequestId> of it, and all events in between would be gone.
        said = (message[1] or message[2]) if message else ""
        return (code[1] or code[2]) if code else str(status), said

    def _event(
        self,
        call: _Call,
        service: str,
        operation: str,
        authorizations: list[dict[str, Any]],
        error: tuple[str, str] | None,
        invoked_by: str | None,
    ) -> dict[str, Any]:
        now, event_id = self._context.clock.now(), str(uuid.uuid4())
        source = f"{service}.amazonaws.com"
        read_only = bool(_READ_ONLY.match(operation))
        detail: dict[str, Any] = {
            "eventVersion": "1.11",
            "userIdentity": self._identity(call.principal) | ({"invokedBy": invoked_by} if invoked_by else {}),
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventSource": source,
            "eventName": operation,
            "awsRegion": self._context.region,
            "sourceIPAddress": invoked_by or "127.0.0.1",
            "eventID": event_id,
            "readOnly": read_only,
            "eventType": "AwsApiCall",
            "recipientAccountId": self._context.account_id,
            "additionalEventData": {"authorizations": authorizations},
        }
        if error is not None:
            detail |= {"errorCode": error[0], "errorMessage": error[1]}
        return {
            "EventId": event_id,
            "EventName": operation,
            "ReadOnly": str(read_only).lower(),
            "EventTime": now,
            "EventSource": source,
            "Username": call.principal.arn.rsplit("/", 1)[-1],
            "Resources": [
                {"ResourceName": name} for name in sorted({one["resource"] for one in authorizations} - {"*"})
            ],
            "CloudTrailEvent": json.dumps(detail),
        }

    def _identity(self, principal: Any) -> dict[str, Any]:
        if isinstance(principal, _Service):
            return {"type": "AWSService", "invokedBy": principal.arn}
        identity = {"arn": principal.arn, "accountId": principal.account_id}
        if principal.role_arn is None:
            return {"type": "IAMUser", "userName": principal.arn.rsplit("/", 1)[-1]} | identity
        issuer = {"type": "Role", "arn": principal.role_arn, "userName": principal.role_name}
        return {"type": "AssumedRole", "sessionContext": {"sessionIssuer": issuer}} | identity

    # -- answering -----------------------------------------------------------------------------------------------------

    def _lookup(self, response: Any) -> ActionResult:
        """Newest first, filtered, in pages; the token pins what there was at the first page."""
        with self._lock:
            events = list(self._events)
        start, seen = 0, len(events)
        if token := response._get_param("NextToken"):
            start, seen = (int(one) for one in token.split("-"))
        matching = list(self._matching(response, reversed(events[:seen])))
        size = min(int(response._get_param("MaxResults") or MAX_RESULTS), MAX_RESULTS)
        page: dict[str, Any] = {"Events": matching[start : start + size]}
        if start + size < len(matching):
            page["NextToken"] = f"{start + size}-{seen}"
        return ActionResult(page)

    @staticmethod
    def _matching(response: Any, events: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        attributes = response._get_param("LookupAttributes") or []
        first, last = response._get_param("StartTime"), response._get_param("EndTime")
        for event in events:
            if first is not None and event["EventTime"] < _moment(first):
                continue
            if last is not None and event["EventTime"] > _moment(last):
                continue
            if all(one["AttributeValue"] in _attribute(event, one["AttributeKey"]) for one in attributes):
                yield event


def _moment(value: Any) -> dt.datetime:
    if isinstance(value, dt.datetime):
        return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    return dt.datetime.fromtimestamp(float(value), dt.UTC)


def _attribute(event: dict[str, Any], key: str) -> list[str]:
    if key == "ResourceName":
        return [one["ResourceName"] for one in event["Resources"]]
    return [str(event.get(key, ""))]
