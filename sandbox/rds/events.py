"""Events: what RDS says that it has done to its instances. Those of other sources are not noted.

RDS User Guide: Amazon RDS event categories and event messages.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sandbox.rds.errors import invalid_combination, invalid_value, refuse
from sandbox.rds.operations import Operations, Params
from sandbox.rds.resources import Instance, View

SOURCE_TYPE = "db-instance"
DURATION_MINUTES = 60
KEPT = dt.timedelta(days=14)


@dataclass(frozen=True)
class Event:
    source: str
    """The name that the instance had then."""
    arn: str
    category: str
    message: str
    at: dt.datetime

    def view(self) -> View:
        return {
            "SourceIdentifier": self.source,
            "SourceType": SOURCE_TYPE,
            "SourceArn": self.arn,
            "Message": self.message,
            "EventCategories": [self.category],
            "Date": self.at,
        }


class Events(Operations):
    """What has happened to instances, and what ends with their servers."""

    events: list[Event]

    def note(self, instance: Instance, category: str, message: str) -> None:
        now = self.context.clock.now()
        with self.lock:
            self.events.append(
                Event(
                    instance.name, instance.arn, category, message,
                    # RDS tells no more than milliseconds.
                    now.replace(microsecond=now.microsecond // 1000 * 1000),
                )
            )  # fmt: skip

    def views_of_events(self, params: Params) -> list[View]:
        """Of one instance, or of all; an instance that there never was has none."""
        if params.get("Filters"):
            raise invalid_value("The parameter Filters is not supported.")
        if params.get("SourceType") != SOURCE_TYPE:
            raise refuse(
                "InvalidAction", f"The sandbox has events of SourceType {SOURCE_TYPE} only, not of this: name that."
            )
        begin, end = self._period(params)
        name, categories = params.get("SourceIdentifier"), params.get("EventCategories")
        with self.lock:
            oldest = self.context.clock.now() - KEPT
            self.events = [event for event in self.events if event.at >= oldest]
            return [
                event.view()
                for event in self.events
                if begin <= event.at <= end
                and name in (None, event.source)
                and (not categories or event.category in categories)
            ]

    def _period(self, params: Params) -> tuple[dt.datetime, dt.datetime]:
        """Of what the request asks for: the last hour, unless it says otherwise.

        That a beginning without an end is a request for all that came after it is what the names say; the API
        reference does not.
        """
        begin, end = (_aware(params.get(member)) for member in ("StartTime", "EndTime"))
        minutes = params.get("Duration")
        duration = dt.timedelta(minutes=DURATION_MINUTES if minutes is None else minutes)
        if begin and end and begin > end:
            raise invalid_combination("StartTime must be before EndTime.")
        if begin and end and minutes is not None:
            raise invalid_combination("Duration cannot be specified together with StartTime and EndTime.")
        if end is None:
            end = begin + duration if begin and minutes is not None else self.context.clock.now()
        return begin or end - duration, end

    # -- the end of a server -------------------------------------------------------------------------------------------

    def _restart(self, instance: Instance) -> None:
        """Let its server begin anew."""
        with instance.server_lock:
            assert instance.server
            self.hang_up(instance)
            self.note(instance, "availability", "DB instance shutdown")
            instance.server.restart()
            self.note(instance, "availability", "DB instance restarted")

    def hang_up(self, instance: Instance) -> None:
        """Its server ends: whoever is connected and has no session yet goes with it."""
        for front in instance.fronts:
            self.fronts.hang_up(front)


def _aware(moment: dt.datetime | None) -> dt.datetime | None:
    """moto's times are of UTC and do not say so."""
    return moment.replace(tzinfo=dt.UTC) if moment and moment.tzinfo is None else moment
