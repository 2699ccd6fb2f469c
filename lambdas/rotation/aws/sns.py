"""Amazon SNS: where a rotation tells people what happened."""

import json
from collections.abc import Mapping
from typing import Any

from lambdas.rotation.aws.client import calls, client

_SUBJECT_LENGTH = 100


class SnsNotifier:
    """`ports.Notifier` on one topic. The moment is a message attribute too, so that a subscription can filter on it."""

    def __init__(self, topic_arn: str) -> None:
        self._topic_arn = topic_arn

    def publish(self, moment: str, subject: str, message: Mapping[str, Any]) -> None:
        """Publish once; a repeated call publishes again, so the caller remembers what it has told."""
        with calls("sns:Publish"):
            client("sns").publish(
                TopicArn=self._topic_arn,
                Subject=_ascii(subject),
                Message=json.dumps(message, indent=2, sort_keys=False, default=str),
                MessageAttributes={"moment": {"DataType": "String", "StringValue": moment}},
            )

    def describe_topic(self) -> None:
        with calls("sns:GetTopicAttributes"):
            client("sns").get_topic_attributes(TopicArn=self._topic_arn)


def _ascii(subject: str) -> str:
    """SNS takes 1 to 100 printable ASCII characters on one line.

    >>> _ascii("Größe\\nB"), len(_ascii("x" * 200))
    ('Gr??e B', 100)
    """
    plain = "".join(letter if " " <= letter <= "~" else "?" for letter in " ".join(subject.split()))
    return plain if len(plain) <= _SUBJECT_LENGTH else plain[: _SUBJECT_LENGTH - 3] + "..."
