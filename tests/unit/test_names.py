"""Every name that a rotation gives is one that AWS takes, and no two things ever get the same."""

import re

from hypothesis import assume, example, given
from hypothesis import strategies as st

from lambdas.rotation import names
from tests.hostile import IDENTIFIER, any_text, instance_identifiers, rotation_ids

SNAPSHOT_LENGTH = 255
ALIAS = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}")
EXECUTION = re.compile(r"[0-9A-Za-z_-]{1,80}")


@given(base=instance_identifiers(), rotation_id=rotation_ids())
@example(base="x" * 63, rotation_id="0a1b2c3d")
@example(base="x" * 40 + "-" + "y" * 22, rotation_id="0a1b2c3d")  # cut right at a hyphen
def test_a_target_and_what_is_named_after_it(base: str, rotation_id: str) -> None:
    target = names.target_identifier(base, rotation_id)
    kept = names.kept_snapshot(target)

    assert IDENTIFIER.fullmatch(target)
    assert len(target) <= 63
    assert target.endswith(f"-rot-{rotation_id}")  # what permissions are bound to
    for snapshot in (names.temporary_snapshot(target), kept, names.rekeyed_snapshot(kept, rotation_id)):
        assert IDENTIFIER.fullmatch(snapshot)
        assert len(snapshot) <= SNAPSHOT_LENGTH
    alias = names.key_alias(base, rotation_id)
    assert ALIAS.fullmatch(alias)
    assert not alias.startswith("alias/aws/")


@given(one=instance_identifiers(), another=instance_identifiers(), rotation_id=rotation_ids())
@example(one="x" * 63, another="x" * 62, rotation_id="0a1b2c3d")
def test_two_databases_never_share_a_target(one: str, another: str, rotation_id: str) -> None:
    assume(one != another)

    assert names.target_identifier(one, rotation_id) != names.target_identifier(another, rotation_id)


@given(base=instance_identifiers(), first=rotation_ids(), second=rotation_ids(), now=rotation_ids())
@example(base="orders-rekeyed-eu", first="00000001", second="00000002", now="0a1b2c3d")
def test_two_kept_snapshots_are_never_copied_to_one_name(base: str, first: str, second: str, now: str) -> None:
    """The second would be taken for copied already, and deleted."""
    assume(first != second)
    kept = [names.kept_snapshot(names.target_identifier(base, earlier)) for earlier in (first, second)]

    copies = [names.rekeyed_snapshot(one, now) for one in kept]

    assert copies[0] != copies[1]
    for one, copy in zip(kept, copies, strict=True):
        assert names.rekeyed_snapshot(copy, "ffffffff") == f"{one}-rekeyed-ffffffff"  # it does not grow


@given(base=instance_identifiers(), another=instance_identifiers(), first=rotation_ids(), now=rotation_ids())
@example(base="x" * 63, another="x" * 62, first="00000001", now="0a1b2c3d")
def test_what_a_rotation_kept_is_known_by_its_name(base: str, another: str, first: str, now: str) -> None:
    """Whatever else carries our tags is an owner's, and is neither copied nor deleted; shortened names count, too."""
    for base_name in (base, names.CLUSTER + base):
        target = names.target_identifier(base_name, first)
        kept = names.kept_snapshot(target)
        rekeyed = names.rekeyed_snapshot(kept, now)
        assert [True, True] == [names.is_kept_snapshot(one, base_name) for one in (kept, rekeyed)]
        for owners in (target, f"{target}-mine", f"{kept}-mine", f"my-{kept}", f"{rekeyed}-mine"):
            assert not names.is_kept_snapshot(owners, base_name)
        another_of_its_kind = base_name.removesuffix(base) + another
        assert base == another or not names.is_kept_snapshot(kept, another_of_its_kind)


@given(base=instance_identifiers(), scheduled_at=any_text())
def test_an_execution_of_the_fleet(base: str, scheduled_at: str) -> None:
    assert EXECUTION.fullmatch(names.execution_name(base, scheduled_at))


@given(bases=st.lists(instance_identifiers(), min_size=2, max_size=2, unique=True))
def test_two_databases_of_a_fleet_never_share_an_execution(bases: list[str]) -> None:
    """The second would count as started."""
    one, another = (names.execution_name(base, "2027-01-01T00:00:00Z") for base in bases)

    assert one != another
