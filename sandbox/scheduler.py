"""EventBridge: schedules fire on the virtual clock, and rules hear of executions that change their status.

moto stores both and does nothing with them. Deliveries go through the public APIs under the role that the schedule or
the target names, so that they are decided on; what cannot be delivered goes to the dead-letter queue, as on AWS.
"""

from __future__ import annotations

import calendar
import datetime as dt
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from jsonpath_ng.ext.parser import parse as parse_json_path
from moto.events.models import events_backends
from moto.scheduler.exceptions import ValidationException
from moto.scheduler.models import EventBridgeSchedulerBackend, Schedule, ScheduleGroup, scheduler_backends
from moto.scheduler.responses import EventBridgeSchedulerResponse
from moto.sns.models import sns_backends
from moto.sqs.models import sqs_backends

from sandbox.clock import VirtualClock

LOG = logging.getLogger("sandbox.scheduler")

DAY_SECONDS = 86_400.0
_FAR_SECONDS = 3650 * DAY_SECONDS
_ATTEMPTS = 3
_RETRY_SECONDS = 1.0


# -- expressions -------------------------------------------------------------------------------------------------------


class ExpressionInvalid(ValueError):
    """Not a schedule expression that EventBridge Scheduler accepts."""


class Expression(Protocol):
    """When a schedule is due."""

    def after(self, moment: float) -> float | None:
        """The first occurrence later than ``moment``; None if there is none."""
        ...


@dataclass(frozen=True)
class At:
    moment: float

    def after(self, moment: float) -> float | None:
        return self.moment if self.moment > moment else None


@dataclass(frozen=True)
class Rate:
    seconds: float
    start: float

    def after(self, moment: float) -> float | None:
        if moment < self.start:
            return self.start
        return self.start + (int((moment - self.start) // self.seconds) + 1) * self.seconds


_MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
_WEEKDAYS = {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), start=1)}


@dataclass(frozen=True)
class Cron:
    """Six fields in a time zone. A local time that does not exist is left out; one that comes twice counts once."""

    minutes: frozenset[int]
    hours: frozenset[int]
    day_of_month: str
    months: frozenset[int]
    day_of_week: str
    years: frozenset[int]
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str, zone: ZoneInfo) -> Cron:
        fields = text.split()
        if len(fields) != 6:
            raise ExpressionInvalid(f"cron has six fields, not {len(fields)}: {text}")
        minutes, hours, day_of_month, months, day_of_week, years = (one.upper() for one in fields)
        if (day_of_month == "?") == (day_of_week == "?"):
            raise ExpressionInvalid(f"exactly one of day-of-month and day-of-week is ?: {text}")
        cron = cls(
            _numbers(minutes, 0, 59),
            _numbers(hours, 0, 23),
            day_of_month,
            _numbers(months, 1, 12, _MONTHS),
            day_of_week,
            _numbers(years, 1970, 2199),
            zone,
        )
        list(cron._days(2024, 1))  # refuses what it cannot read
        return cron

    def after(self, moment: float) -> float | None:
        local = dt.datetime.fromtimestamp(moment, self.zone)
        for year in range(local.year, min(max(self.years), local.year + 100) + 1):
            if year not in self.years:
                continue
            for month in sorted(self.months):
                if (year, month) < (local.year, local.month):
                    continue
                for day in self._days(year, month):
                    if (year, month, day) < (local.year, local.month, local.day):
                        continue
                    for hour in sorted(self.hours):
                        for minute in sorted(self.minutes):
                            candidate = dt.datetime(year, month, day, hour, minute, tzinfo=self.zone)
                            stamp = candidate.timestamp()
                            exists = dt.datetime.fromtimestamp(stamp, self.zone).hour == hour
                            if exists and stamp > moment:
                                return stamp
        return None

    def _days(self, year: int, month: int) -> Iterator[int]:
        last = calendar.monthrange(year, month)[1]
        for day in range(1, last + 1):
            if self.day_of_month != "?":
                if self._matches_day_of_month(year, month, day, last):
                    yield day
            elif self._matches_day_of_week(year, month, day, last):
                yield day

    def _matches_day_of_month(self, year: int, month: int, day: int, last: int) -> bool:
        if self.day_of_month == "L":
            return day == last
        if self.day_of_month == "LW":
            return day == _nearest_weekday(year, month, last)
        if match := re.fullmatch(r"(\d+)W", self.day_of_month):
            return day == _nearest_weekday(year, month, min(int(match[1]), last))
        return day in _numbers(self.day_of_month, 1, 31)

    def _matches_day_of_week(self, year: int, month: int, day: int, last: int) -> bool:
        weekday = (calendar.weekday(year, month, day) + 1) % 7 + 1
        if match := re.fullmatch(r"(\w+)#([1-5])", self.day_of_week):
            return weekday == _number(match[1], _WEEKDAYS) and (day - 1) // 7 + 1 == int(match[2])
        if self.day_of_week == "L":
            return weekday == 7
        if match := re.fullmatch(r"(\w+)L", self.day_of_week):
            return weekday == _number(match[1], _WEEKDAYS) and day > last - 7
        return weekday in _numbers(self.day_of_week, 1, 7, _WEEKDAYS)


def _nearest_weekday(year: int, month: int, day: int) -> int:
    last = calendar.monthrange(year, month)[1]
    match calendar.weekday(year, month, day):
        case 5:
            return day - 1 if day > 1 else day + 2
        case 6:
            return day + 1 if day < last else day - 2
        case _:
            return day


def _number(text: str, names: dict[str, int]) -> int:
    if text in names:
        return names[text]
    if not text.isdigit():
        raise ExpressionInvalid(f"not a value of a cron field: {text}")
    return int(text)


def _numbers(text: str, low: int, high: int, names: dict[str, int] | None = None) -> frozenset[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span in ("*", "?"):
            first, last = low, high
        elif "-" in span:
            first, last = (_number(one, names or {}) for one in span.split("-", 1))
        else:
            first = _number(span, names or {})
            last = high if step else first
        if not (low <= first <= high and low <= last <= high) or (step and not step.isdigit()) or step == "0":
            raise ExpressionInvalid(f"not between {low} and {high}: {text}")
        if last < first:  # FRI-MON
            numbers.update(range(first, high + 1, int(step or 1)))
            first = low
        numbers.update(range(first, last + 1, int(step or 1)))
    return frozenset(numbers)


_UNITS = {"minute": 60.0, "hour": 3600.0, "day": DAY_SECONDS}


def parse_expression(text: str, zone_name: str, start: float) -> Expression:
    """``at(...)``, ``rate(...)`` or ``cron(...)``.

    Raises:
        ExpressionInvalid: it is none of them, or the time zone is unknown.
    """
    try:
        zone = ZoneInfo(zone_name)
    except (ZoneInfoNotFoundError, ValueError) as unknown:
        raise ExpressionInvalid(f"unknown time zone {zone_name}") from unknown
    if match := re.fullmatch(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)", text):
        return At(dt.datetime.fromisoformat(match[1]).replace(tzinfo=zone).timestamp())
    if match := re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", text):
        if int(match[1]) < 1:
            raise ExpressionInvalid(text)
        seconds = int(match[1]) * _UNITS[match[2]]
        return Rate(seconds, start + seconds)
    if match := re.fullmatch(r"cron\((.+)\)", text):
        return Cron.parse(match[1], zone)
    raise ExpressionInvalid(f"Invalid Schedule Expression {text}.")


# -- delivering --------------------------------------------------------------------------------------------------------


class Credentials(Protocol):
    """Where a service of the sandbox gets the keys of a role: the sandbox's Authorizer."""

    def service_credentials(self, role_arn: str, session: str, source_arn: str | None = None) -> dict[str, str]: ...


class Undeliverable(Exception):
    """The target refused, or does not exist, or cannot be a target here."""

    def __init__(self, code: str, message: str, *, again: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.again = code, message, again


@dataclass(frozen=True)
class Sender:
    """On whose behalf, and as what role, ``events`` or ``scheduler`` calls a target."""

    service: str
    source_arn: str
    role_arn: str | None


@dataclass
class Delivery:
    """Calls targets as a service does: with a role's keys."""

    endpoint_url: str
    region: str
    account_id: str
    credentials: Credentials | None
    clients: dict[tuple[str, Sender], Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, service: str, sender: Sender) -> Any:
        if sender.role_arn is None:
            raise Undeliverable("NO_PERMISSIONS", "the target names no role")
        with self.lock:
            if (service, sender) not in self.clients:
                keys = {"AWS_ACCESS_KEY_ID": sender.service, "AWS_SECRET_ACCESS_KEY": sender.service}
                if self.credentials is not None:
                    try:
                        keys = self.credentials.service_credentials(sender.role_arn, sender.service, sender.source_arn)
                    except PermissionError as refusal:
                        raise Undeliverable("NO_PERMISSIONS", str(refusal)) from refusal
                self.clients[service, sender] = boto3.session.Session(region_name=self.region).client(
                    service,
                    endpoint_url=self.endpoint_url,
                    aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
                    aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
                    aws_session_token=keys.get("AWS_SESSION_TOKEN"),
                    config=Config(retries={"total_max_attempts": 1}),
                )
            return self.clients[service, sender]

    def send(self, target_arn: str, sender: Sender, payload: str, name: str) -> None:
        """Call the target once. ``name`` is the execution's, where the target is a state machine.

        Raises:
            Undeliverable: it refused; ``again`` says whether trying again makes sense.
        """
        service = target_arn.split(":")[2]
        try:
            if service == "states":
                self.client("stepfunctions", sender).start_execution(
                    stateMachineArn=target_arn, name=name, input=payload
                )
            elif service == "lambda":
                self.client("lambda", sender).invoke(
                    FunctionName=target_arn, InvocationType="Event", Payload=payload.encode()
                )
            elif service == "sqs" and sender.role_arn:
                queue = self.client("sqs", sender)
                queue.send_message(QueueUrl=self._queue_url(target_arn), MessageBody=payload)
            elif service == "sqs":
                self._send_to_queue(target_arn, payload, {})
            elif service == "sns":
                sns_backends[self.account_id][self.region].publish(message=payload, arn=target_arn)
            else:
                raise Undeliverable("UNSUPPORTED_TARGET", f"the sandbox cannot deliver to {target_arn}")
        except ClientError as refusal:
            error, status = refusal.response["Error"], refusal.response["ResponseMetadata"]["HTTPStatusCode"]
            again = status >= 500 or status == 429 or "Throttl" in error["Code"]
            raise Undeliverable(error["Code"], error["Message"], again=again) from refusal
        except BotoCoreError as failure:
            raise Undeliverable("SDK_CLIENT_ERROR", str(failure), again=True) from failure

    def send_or_bury(
        self,
        send: Callable[[int], None],
        payload: str,
        queue_arn: str | None,
        sender: Sender | None,
        attributes: dict[str, str],
        attempts: int,
    ) -> None:
        """Try, then leave the payload and the reason in the dead-letter queue; without one it is lost, and logged."""
        for attempt in range(1, attempts + 1):
            try:
                return send(attempt)
            except Undeliverable as refusal:
                LOG.warning("delivery refused: %s: %s", attributes.get("TARGET_ARN"), refusal)
                if refusal.again and attempt < attempts:
                    time.sleep(_RETRY_SECONDS)
                    continue
                reason = {"ERROR_CODE": refusal.code, "ERROR_MESSAGE": refusal.message}
                if queue_arn is None:
                    LOG.error("undelivered, and no dead-letter queue: %s", attributes | reason)
                elif sender is None:
                    self._send_to_queue(queue_arn, payload, attributes | reason)
                else:
                    self._bury_as(sender, queue_arn, payload, attributes | reason)
                return None
        return None

    def _bury_as(self, sender: Sender, queue_arn: str, payload: str, attributes: dict[str, str]) -> None:
        try:
            self.client("sqs", sender).send_message(
                QueueUrl=self._queue_url(queue_arn),
                MessageBody=payload,
                MessageAttributes=_message_attributes(attributes),
            )
        except (ClientError, Undeliverable) as refusal:
            LOG.error("the dead-letter queue refused, too: %s %s", attributes, refusal)

    def _send_to_queue(self, queue_arn: str, payload: str, attributes: dict[str, str]) -> None:
        backend = sqs_backends[self.account_id][self.region]
        backend.send_message(
            queue_name=queue_arn.rsplit(":", 1)[1],
            message_body=payload,
            message_attributes={
                key: {"data_type": "String", "string_value": value} for key, value in attributes.items()
            },
        )

    def _queue_url(self, queue_arn: str) -> str:
        return f"{self.endpoint_url}/{self.account_id}/{queue_arn.rsplit(':', 1)[1]}"


def _message_attributes(attributes: dict[str, str]) -> dict[str, dict[str, str]]:
    return {key: {"DataType": "String", "StringValue": value} for key, value in attributes.items() if value}


# -- events ------------------------------------------------------------------------------------------------------------


def transform(template: str, paths: dict[str, str], event: dict[str, Any], predefined: dict[str, Any]) -> str:
    """An InputTransformer's result: a value outside quotes is JSON, inside quotes it is text."""
    values = dict(predefined)
    for name, path in paths.items():
        found = parse_json_path(path).find(event)
        values[name] = found[0].value if found else None
    out, quoted, position = [], False, 0
    while position < len(template):
        character = template[position]
        if character == "\\":
            out.append(template[position : position + 2])
            position += 2
            continue
        match = re.compile(r"<([\w.-]+)>").match(template, position)
        if match and match[1] in values:
            value = values[match[1]]
            if not quoted:
                out.append(json.dumps(value))
            else:
                text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
                out.append(json.dumps(text)[1:-1])
            position = match.end()
            continue
        if character == '"':
            quoted = not quoted
        out.append(character)
        position += 1
    return "".join(out)


def _input_of(target: dict[str, Any], event: dict[str, Any], rule: Any) -> str:
    if "Input" in target:
        return str(target["Input"])
    if path := target.get("InputPath"):
        found = parse_json_path(path).find(event)
        return json.dumps(found[0].value if found else None)
    if transformer := target.get("InputTransformer"):
        predefined = {
            "aws.events.rule-arn": rule.arn,
            "aws.events.rule-name": rule.name,
            "aws.events.event.ingestion-time": event["time"],
            "aws.events.event": {key: value for key, value in event.items() if key != "detail"},
            "aws.events.event.json": event,
        }
        return transform(transformer["InputTemplate"], transformer.get("InputPathsMap", {}), event, predefined)
    return json.dumps(event)


def status_change_event(execution: Any, account_id: str, region: str, now: dt.datetime) -> dict[str, Any]:
    """What EventBridge publishes when an execution starts or ends."""

    def milliseconds(moment: dt.datetime | None) -> int | None:
        return int(moment.timestamp() * 1000) if moment else None

    status = str(execution.status)
    output = json.dumps(execution.output) if status == "SUCCEEDED" else None
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Step Functions Execution Status Change",
        "source": "aws.states",
        "account": account_id,
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [execution.exec_arn],
        "detail": {
            "executionArn": execution.exec_arn,
            "stateMachineArn": execution.state_machine_arn,
            "stateMachineVersionArn": None,
            "stateMachineAliasArn": None,
            "name": execution.name,
            "status": status,
            "startDate": milliseconds(execution.start_date),
            "stopDate": milliseconds(execution.stop_date) if status != "RUNNING" else None,
            "input": execution.execution_input,
            "inputDetails": {"included": True},
            "output": output,
            "outputDetails": {"included": True} if output is not None else None,
            "error": execution.error,
            "cause": execution.cause,
            "redriveCount": 0,
            "redriveDate": None,
        },
    }


# -- the services ------------------------------------------------------------------------------------------------------


@dataclass
class _Watched:
    signature: tuple[Any, ...]
    expression: Expression
    done_until: float


class EventBridge:
    """Schedules and rules of one account and Region, at work between :meth:`start` and :meth:`stop`."""

    def __init__(
        self, clock: VirtualClock, endpoint_url: str, region: str, account_id: str, credentials: Credentials | None
    ) -> None:
        self._clock = clock
        self._region, self._account_id = region, account_id
        self._delivery = Delivery(endpoint_url, region, account_id, credentials)
        self._lost: set[str] = set()
        self._stopped = threading.Event()
        self._watched: dict[str, _Watched] = {}
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        _patch_once()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(5)

    # -- rules

    def execution_changed(self, execution: Any) -> None:
        """Tell every matching rule, in a thread of its own; the clock is held until all targets have been called."""
        if execution.exec_arn in self._lost:
            return
        event = status_change_event(execution, self._account_id, self._region, self._clock.now())
        self._in_background(lambda: self.publish(event))

    def lose(self, execution_arn: str) -> None:
        """Events are delivered at least once, as a rule; nobody hears of this execution any more."""
        self._lost.add(execution_arn)

    def publish(self, event: dict[str, Any]) -> None:
        buses = events_backends[self._account_id][self._region].event_buses
        for rule in list(buses["default"].rules.values()):
            # A rule with a schedule has no pattern, and moto takes no pattern for "matches everything".
            if rule.state != "ENABLED" or not rule.event_pattern.get_pattern():
                continue
            if rule.event_pattern.matches_event(event):
                for target in list(rule.targets):
                    self._send_event(rule, target, event)

    def _send_event(self, rule: Any, target: dict[str, Any], event: dict[str, Any]) -> None:
        payload = _input_of(target, event, rule)
        sender = Sender("events", rule.arn, target.get("RoleArn"))
        name = f"{event['id']}_{uuid.uuid4()}"
        retries = int(target.get("RetryPolicy", {}).get("MaximumRetryAttempts", 185))
        self._delivery.send_or_bury(
            lambda _: self._delivery.send(target["Arn"], sender, payload, name),
            json.dumps(event),
            target.get("DeadLetterConfig", {}).get("Arn"),
            None,  # a rule's queue is opened to EventBridge by the queue's policy, not by the target's role
            {"RULE_ARN": rule.arn, "TARGET_ARN": target["Arn"]},
            attempts=min(retries + 1, _ATTEMPTS),
        )

    # -- schedules

    def _run(self) -> None:
        with self._clock.busy():
            while not self._stopped.is_set():
                version = _version
                try:
                    soon, often = self._fire_what_is_due()
                except Exception:
                    LOG.exception("the scheduler failed")
                    soon, often = _FAR_SECONDS, None

                def called(version: int = version, often: float | None = often) -> bool:
                    late = often is not None and self._clock.time() >= often
                    return self._stopped.is_set() or version != _version or late

                self._clock.wait_until(soon, called)

    def _fire_what_is_due(self) -> tuple[float, float | None]:
        """Fire, and say what comes next: the moment to jump to at most, and the next of those not worth a stop.

        A schedule that comes around more than daily is no stop of its own on the way over a week of grace: it fires
        once where the jump ends, instead of 168 times on the way.
        """
        now = self._clock.time()
        soon: list[float] = [now + _FAR_SECONDS]
        often: list[float] = []
        schedules = self._schedules()
        for gone in self._watched.keys() - schedules.keys():
            del self._watched[gone]
        for arn, schedule in schedules.items():
            watched = self._watch(arn, schedule, now)
            if schedule.state != "ENABLED":
                watched.done_until = now
                continue
            due = _latest_due(watched.expression, watched.done_until, now)
            if due is not None and _within_dates(schedule, due):
                self._fire(schedule, due)
            watched.done_until = max(watched.done_until, now if due is not None else watched.done_until)
            upcoming = watched.expression.after(watched.done_until)
            if upcoming is None:
                continue
            following = watched.expression.after(upcoming)
            frequent = following is not None and following - upcoming < DAY_SECONDS
            (often if frequent else soon).append(upcoming)
        return min(soon), min(often) if often else None

    def _schedules(self) -> dict[str, Any]:
        groups = scheduler_backends[self._account_id][self._region].schedule_groups
        return {one.arn: one for group in list(groups.values()) for one in list(group.schedules.values())}

    def _watch(self, arn: str, schedule: Any, now: float) -> _Watched:
        signature = (
            schedule.schedule_expression,
            schedule.schedule_expression_timezone,
            schedule.start_date,
            schedule.last_modified_date,
        )
        watched = self._watched.get(arn)
        if watched is None or watched.signature != signature:
            start = float(schedule.start_date or schedule.last_modified_date)
            expression = parse_expression(schedule.schedule_expression, schedule.schedule_expression_timezone, start)
            watched = self._watched[arn] = _Watched(signature, expression, float(schedule.last_modified_date))
        return watched

    def _fire(self, schedule: Any, due: float) -> None:
        target = dict(schedule.target)
        group_arn = f"arn:aws:scheduler:{self._region}:{self._account_id}:schedule-group/{schedule.group_name}"
        sender = Sender("scheduler", group_arn, target["RoleArn"])
        execution_id = str(uuid.uuid4())
        scheduled = dt.datetime.fromtimestamp(due, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        retries = int(target.get("RetryPolicy", {}).get("MaximumRetryAttempts", 185))
        context = {
            "<aws.scheduler.schedule-arn>": schedule.arn,
            "<aws.scheduler.scheduled-time>": scheduled,
            "<aws.scheduler.execution-id>": execution_id,
        }

        def payload(attempt: int) -> str:
            text = target.get("Input") or "{}"
            for name, value in (context | {"<aws.scheduler.attempt-number>": str(attempt)}).items():
                text = text.replace(name, value)
            return str(text)

        def deliver() -> None:
            self._delivery.send_or_bury(
                lambda attempt: self._delivery.send(target["Arn"], sender, payload(attempt), execution_id),
                payload(1),
                target.get("DeadLetterConfig", {}).get("Arn"),
                sender,
                {
                    "SCHEDULE_ARN": schedule.arn,
                    "SCHEDULED_TIME": scheduled,
                    "EXECUTION_ID": execution_id,
                    "TARGET_ARN": target["Arn"],
                },
                attempts=min(retries + 1, _ATTEMPTS),
            )

        self._in_background(deliver)
        if schedule.action_after_completion == "DELETE" and schedule.schedule_expression.startswith("at("):
            groups = scheduler_backends[self._account_id][self._region].schedule_groups
            groups[schedule.group_name].schedules.pop(schedule.name, None)

    def _in_background(self, work: Callable[[], None]) -> None:
        self._clock.hold()

        def run() -> None:
            try:
                work()
            except Exception:
                LOG.exception("a delivery failed")
            finally:
                self._clock.let_go()

        threading.Thread(target=run, name="delivery", daemon=True).start()


def _latest_due(expression: Expression, done_until: float, now: float) -> float | None:
    """The latest occurrence that has not fired yet; earlier ones that a jump went over are not made up for."""
    due = None
    upcoming = expression.after(done_until)
    if isinstance(expression, Rate) and upcoming is not None and upcoming <= now:
        return upcoming + int((now - upcoming) // expression.seconds) * expression.seconds
    while upcoming is not None and upcoming <= now:
        due, upcoming = upcoming, expression.after(upcoming)
    return due


def _within_dates(schedule: Any, moment: float) -> bool:
    started = schedule.start_date is None or moment >= float(schedule.start_date)
    return started and (schedule.end_date is None or moment <= float(schedule.end_date))


# -- the API -----------------------------------------------------------------------------------------------------------

_version = 0
_patched = False


def _patch_once() -> None:
    """moto's Scheduler refuses what AWS refuses, and says when something has changed."""
    global _patched
    if _patched:
        return
    _patched = True

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            global _version
            try:
                return function(*args, **kwargs)
            finally:
                _version += 1

        return wrapper

    ScheduleGroup.add_schedule = noting(ScheduleGroup.add_schedule)
    ScheduleGroup.delete_schedule = noting(ScheduleGroup.delete_schedule)
    Schedule.update = noting(Schedule.update)

    create, update = EventBridgeSchedulerBackend.create_schedule, EventBridgeSchedulerBackend.update_schedule

    def check(arguments: dict[str, Any]) -> None:
        try:
            parse_expression(
                arguments["schedule_expression"], arguments.get("schedule_expression_timezone") or "UTC", 0
            )
        except ExpressionInvalid as invalid:
            raise ValidationException(str(invalid)) from invalid

    def create_schedule(self: Any, **arguments: Any) -> Any:
        check(arguments)
        self.get_schedule_group(arguments.get("group_name"))  # ResourceNotFoundException, where moto fails
        return create(self, **arguments)

    def update_schedule(self: Any, **arguments: Any) -> Any:
        check(arguments)
        # What an update leaves out falls back to its default, on AWS.
        return update(self, **arguments | {"state": arguments.get("state") or "ENABLED"})

    EventBridgeSchedulerBackend.create_schedule = create_schedule
    EventBridgeSchedulerBackend.update_schedule = update_schedule

    respond_update = EventBridgeSchedulerResponse.update_schedule

    def update_everything(self: Any) -> Any:
        # moto leaves this one as it was.
        answer = respond_update(self)
        group, name = self._get_param("GroupName"), self._get_param("Name")
        name = name or self.uri.split("?")[0].rstrip("/").rsplit("/", 1)[1]
        schedule = self.scheduler_backend.get_schedule(group, name)
        schedule.action_after_completion = self._get_param("ActionAfterCompletion")
        return answer

    EventBridgeSchedulerResponse.update_schedule = update_everything
