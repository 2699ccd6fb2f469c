"""A line of a server's log decides what a target is given; half a line, or a part of two, would decide it wrongly."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from lambdas.rotation.aws.client import client
from lambdas.rotation.aws.rds import AwsRds
from lambdas.rotation.errors import AwsRefused, AwsUnavailable

WORDS = "redo done at"
LINE = "UTC::@:[42]:LOG:  redo done at 0/3000060 system usage: CPU"
CUT = " [Your log message was truncated]\n"
FILES_OF_A_PAGE = 2
SINCE = datetime(2027, 1, 1, tzinfo=UTC)


class Logs:
    """DescribeDBLogFiles and DownloadDBLogFilePortion, as RDS's customers have seen them.

    A portion has so many lines at most, and so many bytes. The line in which these end is cut, with a remark; the next
    portion goes on with that byte or, where ``skips``, behind that line (and the remark is a line of its own): both
    were seen.
    """

    def __init__(self, files: Mapping[str, str], *, bytes_at_most: int, skips: bool) -> None:
        self.files, self.bytes_at_most, self.skips = dict(files), bytes_at_most, skips
        self.removed: set[str] = set()
        self.written_at: dict[str, int] = {}
        """Milliseconds; of a file that is not in here it is late enough."""
        self.refusal: tuple[str, int] = ("DBLogFileNotFoundFault", 404)
        self.remark = f"\n{CUT}" if skips else CUT
        self.nothing: str | None = ""
        self.portions = 0

    def pages(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        first, since = int(asked.get("Marker", 0)), int(asked["FileLastWritten"])
        named = [{"LogFileName": name} for name in self.files if self.written_at.get(name, since) >= since]
        more = {"Marker": str(first + FILES_OF_A_PAGE)} if named[first + FILES_OF_A_PAGE :] else {}
        return {"DescribeDBLogFiles": named[first : first + FILES_OF_A_PAGE], **more}

    def portion(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        self.portions += 1
        text, begin = self.files[asked["LogFileName"]], int(asked["Marker"])
        wanted = "".join(text[begin:].splitlines(keepends=True)[: int(asked["NumberOfLines"])])
        given = wanted[: self.bytes_at_most]
        end = begin + len(given)
        if given and given != wanted and not given.endswith("\n"):
            given += self.remark
            end = text.find("\n", end) + 1 if self.skips else end
        # The element is absent, not false, behind the last portion.
        return {
            "LogFileData": given or self.nothing,
            "Marker": str(end),
            **({"AdditionalDataPending": True} if text[end:] else {}),
        }


@contextmanager
def rds_with(files: Mapping[str, str], *, bytes_at_most: int = 200, skips: bool = False) -> Iterator[Logs]:
    logs = Logs(files, bytes_at_most=bytes_at_most, skips=skips)

    def answer(model: Any, params: Mapping[str, Any], **_: Any) -> tuple[AWSResponse, Mapping[str, Any]]:
        asked = params["body"]
        if asked.get("LogFileName") in logs.removed:
            code, status = logs.refusal
            metadata = {"HTTPStatusCode": status}
            return AWSResponse("", status, {}, None), {"Error": {"Code": code}, "ResponseMetadata": metadata}
        found = logs.pages(asked) if model.name == "DescribeDBLogFiles" else logs.portion(asked)
        return AWSResponse("", 200, {}, None), found

    events, names = client("rds").meta.events, ("DescribeDBLogFiles", "DownloadDBLogFilePortion")
    for name in names:
        events.register_first(f"before-call.rds.{name}", answer)
    try:
        yield logs
    finally:
        for name in names:
            events.unregister(f"before-call.rds.{name}", answer)


def lines() -> list[str]:
    return list(AwsRds().log_lines("orders-rot-42", WORDS, SINCE))


def test_every_file_is_read_and_only_the_lines_with_these_words_are_given() -> None:
    """The end of a recovery stands in the file of the hour in which the target was started, whichever that was."""
    files = {f"error/postgresql.log.2027-01-01-0{hour}": f"one\n{LINE} {hour}\nother\n" for hour in range(5)}

    with rds_with(files):
        assert [f"{LINE} {hour}" for hour in range(5)] == lines()


def test_what_was_last_written_before_is_not_read() -> None:
    """The disk has the source's logs of days, and a portion takes a second."""
    with rds_with({"old": f"{LINE} old\n", "at the time": f"{LINE}\n"}) as logs:
        logs.written_at = {"old": 1_798_761_599_999, "at the time": 1_798_761_600_000}
        assert [LINE] == lines()

    assert logs.portions == 1


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("before", range(0, 210, 7))
def test_a_line_at_the_end_of_a_portion_is_given_whole_and_once(before: int, skips: bool) -> None:
    """Wherever the portion ends. ``redo done at 0/30`` is a position, too, and a wrong one."""
    filling = "".join(f"{number:06}\n" for number in range(100))
    with rds_with({"log": f"{filling[:before]}{LINE}\n{filling}{LINE}\n"}, skips=skips) as logs:
        assert [LINE, LINE] == lines()

    assert logs.portions < 20


def test_a_portion_that_ends_in_a_line_without_a_remark_goes_on_with_the_next() -> None:
    with rds_with({"log": f"{'x' * 180}\n{LINE}\n"}) as logs:
        logs.remark = ""
        assert [LINE] == lines()


@pytest.mark.parametrize("skips", [False, True])
def test_a_line_that_is_longer_than_any_portion_is_left_out(skips: bool) -> None:
    """A statement of a megabyte must not keep anybody from reading on, however often it is asked for."""
    with rds_with({"log": f"first\n{'long ' * 100}{LINE}\n{LINE}\n"}, skips=skips) as logs:
        assert LINE == lines()[-1]

    assert logs.portions < 10


def test_a_remark_that_somebody_logs_himself_is_a_line_like_any() -> None:
    with rds_with({"log": f"one\n{CUT}{CUT}{LINE}\n"}):
        assert [LINE] == lines()


def test_a_line_that_has_no_end_yet_is_not_given() -> None:
    """The server is writing it; the next look finds it."""
    with rds_with({"log": f"{LINE}\nUTC::@:[42]:LOG:  redo done at 0/30"}):
        assert [LINE] == lines()


@pytest.mark.parametrize("nothing", ["", None])
def test_a_file_may_be_empty(nothing: str | None) -> None:
    with rds_with({"log": "", "other": f"{LINE}\n"}) as logs:
        logs.nothing = nothing
        assert [LINE] == lines()


def test_a_file_that_rds_has_removed_since_it_was_listed_is_passed_over() -> None:
    """It was the oldest: RDS removes them by their age, and a target's own are younger than the source's."""
    with rds_with({"old": f"{LINE} old\n", "new": f"{LINE}\n"}) as logs:
        logs.removed.add("old")
        assert [LINE] == lines()


@pytest.mark.parametrize(
    ("refusal", "error"), [(("Throttling", 400), AwsUnavailable), (("InvalidParameterValue", 400), AwsRefused)]
)
def test_what_could_not_be_read_for_another_reason_is_not_taken_for_read(
    refusal: tuple[str, int], error: type[Exception]
) -> None:
    """A second recovery may stand in it."""
    with rds_with({"old": f"{LINE} old\n", "new": f"{LINE}\n"}) as logs:
        logs.removed.add("old")
        logs.refusal = refusal
        with pytest.raises(error, match="rds:DownloadDBLogFilePortion"):
            lines()
