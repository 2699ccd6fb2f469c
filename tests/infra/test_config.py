"""A wrong configuration is one readable line, before anything is constructed."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from infra.config import Config, ConfigInvalid, load
from tests.hostile import any_json

MINIMAL = 'account: "123456789012"\nregion: eu-central-1\n'


def loaded(tmp_path: Path, text: str) -> Config:
    (tmp_path / "here.yaml").write_text(text)
    return load("here", tmp_path)


def test_account_and_region_are_all_that_is_needed(tmp_path: Path) -> None:
    config = loaded(tmp_path, MINIMAL)

    assert "cron(0 0 1 */3 ? *)" == config.schedule.expression
    assert "enabled" == config.schedule.state


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("account: 123456789012\nregion: eu-central-1\n", "account: Input should be a valid string"),
        (MINIMAL + "shedule: {}\n", "shedule: Extra inputs are not permitted"),
        (MINIMAL + "defaults: {grace_days: -1}\n", r"defaults\.grace_days: .*greater than or equal to 0 \(got -1\)"),
        (MINIMAL + "schedule: {expression: quarterly}\n", r"schedule\.expression: .*has to be cron"),
        (MINIMAL + "vpc: {vpc_id: vpc-1}\n", r"vpc\.subnets: Field required"),
        (MINIMAL + "hosted_zone_ids: Z1\n", "hosted_zone_ids"),
        (MINIMAL + "record_names: [Orders.example.com]\n", "in small letters"),
        (MINIMAL + "record_names: [orders.example.com.]\n", "without a dot at the end"),
        (MINIMAL + "proxy_arns: ['arn:aws:rds:a:123456789012:db-proxy:prx-1']\n", "each db-proxy with its"),
        (MINIMAL + "proxy_arns: ['arn:aws:rds:a:123456789012:proxy:prx-1']\n", "each db-proxy with its"),
        (MINIMAL + "backup_regions: [ireland]\n", r"backup_regions\.0: "),
        (MINIMAL + "backup_regions: eu-west-1\n", "backup_regions: "),
        (MINIMAL + "backup_regions: [eu-central-1]\n", "other Regions than the stack's"),
        (MINIMAL + "backup_regions: [eu-west-1, eu-west-1]\n", "each once"),
        (MINIMAL + "backup_regions: [us-gov-west-1]\n", "of the stack's partition"),
        ("- a list\n", r"file: .*valid dictionary"),
        ("account: [\n", "is not YAML"),
        ("account: 2027-13-45\n", "is not YAML"),
        ("[" * 1000, "is not YAML"),
        (MINIMAL + "defaults: {min_age_days: 99999}\n", r"defaults\.min_age_days"),
    ],
)
def test_says_which_field_and_why(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigInvalid, match=complaint):
        loaded(tmp_path, text)


def test_an_unknown_environment_is_told_which_there_are() -> None:
    with pytest.raises(ConfigInvalid, match=r"no configuration 'prod' .*example, sandbox"):
        load("prod")


@given(content=st.binary(max_size=80) | any_json(20).map(lambda value: yaml.safe_dump(value).encode("utf-8", "ignore")))
@example(content="account: Größe".encode("latin-1"))
def test_any_file_is_a_configuration_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as directory:
        (Path(directory) / "here.yaml").write_bytes(content)
        with pytest.raises(ConfigInvalid):
            load("here", Path(directory))
