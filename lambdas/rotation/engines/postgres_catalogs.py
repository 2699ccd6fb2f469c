"""What logical replication brings from one PostgreSQL database to another, and what it does not (PostgreSQL
documentation: Logical Replication, Restrictions)."""

import json
from collections.abc import Iterable, Iterator, Sequence

from lambdas.rotation.engines.postgres import Session, cron_jobs
from lambdas.rotation.names import named
from lambdas.rotation.state import Finding

_OF_AN_EXTENSION = (
    "EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')"
)
_CUSTOMERS = "nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'"
_RELATIONS = "FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
_TABLES = f"""
{_RELATIONS} WHERE relkind = 'r' AND relpersistence = 'p' AND {_CUSTOMERS} AND NOT {_OF_AN_EXTENSION}
"""
_TABLES_AND_SEQUENCES = f"{_RELATIONS} WHERE relkind IN ('r', 'S') AND relpersistence <> 't' AND {_CUSTOMERS}"
# Of pg_cron's, which show everybody his own jobs, it is asked elsewhere (`cron_jobs`).
_TABLES_OF_EXTENSIONS = f"""
{_RELATIONS} WHERE relkind = 'r' AND relpersistence = 'p' AND {_OF_AN_EXTENSION} AND NOT (
    nspname = 'cron' AND row_security_active(c.oid) AND EXISTS (
        SELECT FROM pg_depend JOIN pg_extension e ON refclassid = 'pg_extension'::regclass AND refobjid = e.oid
        WHERE extname = 'pg_cron' AND classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e'
    )
)
"""

_READ_ONLY_BY_DEFAULT = """
FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase, unnest(setconfig) one
WHERE setrole = 0 AND datname = current_database() AND one LIKE 'default_transaction_read_only=%'
"""

# What a session makes for itself comes and goes with it; and a table that is rewritten gets another toast table.
_PASSING = "(SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast|temp_)')"
_OF_PASSING = f"(SELECT oid FROM pg_class WHERE relnamespace IN {_PASSING})"
# What the server was made with has lower oids (FirstNormalObjectId, access/transam.h). Nobody but RDS alters that, and
# most rows are of it. 2200: the schema public, which a customer may comment on.
_CUSTOMERS_OWN = ">= 16384"
# What was renamed and is as before, or was written anew (ALTER COLUMN … TYPE … USING): rows are sent by names, and of
# what is written anew none is. Every change leaves its transaction in the row, and freezing leaves it there. Not of
# what the server was made with: RDS may grant once more there what is granted.
_CHANGED_BY = f"CASE WHEN oid {_CUSTOMERS_OWN} OR oid = 2200 THEN xmin END"
# RDS's own roles are RDS's own affair.
_RDSS_ROLES = "(SELECT oid FROM pg_roles WHERE rolname ~ '^(pg_|rds)')"

# Oids and all: the copy is physical, so what nobody has changed is the same to the letter. Left out is what statistics,
# vacuum and the rewriting of a table change by themselves.
_COMPARED = {
    **{
        catalog: f"* FROM {catalog}"
        for catalog in (
            "pg_aggregate", "pg_am", "pg_amop", "pg_amproc", "pg_cast", "pg_collation", "pg_conversion",
            "pg_default_acl", "pg_event_trigger", "pg_extension", "pg_foreign_data_wrapper",
            "pg_foreign_server", "pg_foreign_table", "pg_language", "pg_largeobject_metadata", "pg_opclass",
            "pg_operator", "pg_opfamily", "pg_partitioned_table", "pg_publication_rel", "pg_range",
            "pg_seclabel", "pg_shdescription", "pg_shseclabel", "pg_tablespace", "pg_transform", "pg_ts_config",
            "pg_ts_config_map", "pg_ts_dict", "pg_ts_parser", "pg_ts_template", "pg_user_mappings",
        )
    },
    **{
        catalog: f"* FROM {catalog} WHERE {relation} NOT IN {_OF_PASSING}"
        for catalog, relation in (
            ("pg_attrdef", "adrelid"),
            ("pg_inherits", "inhrelid"),
            ("pg_policy", "polrelid"),
            ("pg_sequence", "seqrelid"),
            ("pg_statistic_ext", "stxrelid"),
            ("pg_trigger", "tgrelid"),
        )
    },
    **{
        catalog: f"* FROM {catalog} WHERE {namespace} NOT IN {_PASSING}"
        for catalog, namespace in (
            ("pg_constraint", "connamespace"),
            ("pg_proc", "pronamespace"),
        )
    },
    "pg_enum": f"{_CHANGED_BY}, * FROM pg_enum",
    "pg_namespace": f"{_CHANGED_BY}, * FROM pg_namespace WHERE oid NOT IN {_PASSING}",
    "pg_publication": f"{_CHANGED_BY}, * FROM pg_publication",
    # Of every table there is one, which is renamed and moved with it.
    "pg_type": f"{_CHANGED_BY}, * FROM pg_type WHERE typnamespace NOT IN {_PASSING}",
    "pg_description": f"* FROM pg_description WHERE (objoid {_CUSTOMERS_OWN} OR objoid = 2200) "
    f"AND objoid NOT IN {_OF_PASSING}",
    "pg_rewrite": f"* FROM pg_rewrite WHERE ev_class {_CUSTOMERS_OWN} AND ev_class NOT IN {_OF_PASSING}",
    "pg_class": "oid, relname, relnamespace, reltype, reloftype, relowner, relam, reltablespace, relpersistence, "
    "relkind, relnatts, relchecks, relrowsecurity, relforcerowsecurity, relreplident, relispartition, relacl, "
    f"reloptions, relpartbound FROM pg_class WHERE relnamespace NOT IN {_PASSING}",
    "pg_attribute": "xmin, attrelid, attname, atttypid, attstattarget, attnum, attndims, atttypmod, attstorage, "
    "attnotnull, atthasdef, attidentity, attgenerated, attisdropped, attislocal, attinhcount, attcollation, "
    f"attcompression, attacl, attoptions, attfdwoptions FROM pg_attribute WHERE attrelid {_CUSTOMERS_OWN} "
    f"AND attrelid NOT IN {_OF_PASSING}",
    "pg_index": "indexrelid, indrelid, indisunique, indisprimary, indisexclusion, indimmediate, indisvalid, "
    "indisreplident, indkey, indcollation, indclass, indoption, indexprs, indpred "
    f"FROM pg_index WHERE indrelid NOT IN {_OF_PASSING}",
    # Whose a sequence is, and what belongs to an extension.
    "pg_depend": "classid, objid, objsubid, refclassid, refobjid, refobjsubid, deptype FROM pg_depend "
    f"WHERE deptype = 'e' OR objid IN (SELECT seqrelid FROM pg_sequence) AND objid NOT IN {_OF_PASSING}",
    "pg_roles": f"* FROM pg_roles WHERE oid NOT IN {_RDSS_ROLES}",
    "pg_auth_members": f"* FROM pg_auth_members WHERE member NOT IN {_RDSS_ROLES}",
    # On a copy the rotation sets one itself, of each database that it makes room in.
    "pg_db_role_setting": "setdatabase, setrole, one FROM pg_db_role_setting, unnest(setconfig) one "
    f"WHERE setrole NOT IN {_RDSS_ROLES} "
    "AND NOT (CAST(:copied AS boolean) AND setrole = 0 AND one = 'default_transaction_read_only=on')",
    # Nobody can look into one that accepts no connections: it must not have been opened since the snapshot, and nobody
    # but the fence may close one.
    "pg_database": "oid, datname, datdba, encoding, datistemplate, datacl, CASE WHEN NOT datallowconn "
    "AND datname NOT IN ('template0', 'rdsadmin') AND NOT CAST(:fenced AS jsonb) ? datname::text THEN xmin END "
    "FROM pg_database",
}  # fmt: skip
# Of all rows in whatever order. No md5: a server in FIPS mode has none.
_DIGEST = "sum(hashtextextended(one::text, 0))::text"
_CATALOGS = " UNION ALL ".join(
    f"SELECT '{catalog}', {_DIGEST} FROM (SELECT {rows}) one" for catalog, rows in _COMPARED.items()
)
_CATALOGS_SINCE_15 = " UNION ALL ".join(
    f"SELECT '{catalog}', {_DIGEST} FROM {catalog} one" for catalog in ("pg_parameter_acl", "pg_publication_namespace")
)


def catalogs_of(sql: Session, *, fenced: Iterable[str] = (), copied: bool = False) -> str:
    """Digest of everything that is not replicated and must not have changed: JSON, catalog -> digest.

    ``fenced``: databases that the rotation has closed, or on the copy would have. ``copied``: of a copy that is kept
    closed.

    The content of extensions' tables is in it as well: they belong to whoever made the extension, and cannot be
    published.
    """
    digests = dict(sql.rows(_CATALOGS, copied=copied, fenced=json.dumps([*fenced])))
    if sql.value("SELECT current_setting('server_version_num')::int >= 150000"):
        digests |= dict(sql.rows(_CATALOGS_SINCE_15))
    for (table,) in sql.rows(f"SELECT format('%I.%I', nspname, relname) {_TABLES_OF_EXTENSIONS} ORDER BY 1"):
        # As rows of no type: its owner may have made a cast of the table's own to text, which ran with our rights.
        digests[table] = sql.value(f"SELECT {_DIGEST} FROM (SELECT ROW(all_of.*) FROM {table} all_of) rows (one)")
    return json.dumps(digests, sort_keys=True)


def differing(catalogs: str, others: str) -> list[str]:
    """Catalogs that are not the same in two digests.

    >>> differing('{"pg_class": "1", "pg_proc": "2"}', '{"pg_class": "1", "pg_proc": "3"}')
    ['pg_proc']
    """
    one, other = json.loads(catalogs), json.loads(others)
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def tables_of(sql: Session) -> list[str]:
    """Quoted names of the tables that have to be published; of a partitioned one its partitions."""
    return [name for (name,) in sql.rows(f"SELECT format('%I.%I', nspname, relname) {_TABLES} ORDER BY 1")]


def uncaptured_tables(sql: Session, publication: str) -> list[str]:
    return [
        name
        for (name,) in sql.rows(
            f"""
            SELECT format('%I.%I', nspname, relname) {_TABLES} AND NOT EXISTS (
                SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid
                WHERE prrelid = c.oid AND pubname = :publication
            ) ORDER BY 1
            """,
            publication=publication,
        )
    ]


def schemas_out_of_reach(sql: Session) -> list[str]:
    """Schemas with tables or sequences that the login may not even name."""
    return [
        name
        for (name,) in sql.rows(
            f"""
            SELECT DISTINCT nspname::text {_TABLES_AND_SEQUENCES}
            AND NOT has_schema_privilege(n.oid, 'USAGE') ORDER BY 1
            """
        )
    ]


def owners_apart(sql: Session) -> list[tuple[str, bool]]:
    """Owners of tables or sequences as whom the login may not act, and whether that can be granted to it."""
    return [
        (owner, may_be_granted)
        for owner, may_be_granted in sql.rows(
            f"""
            SELECT DISTINCT pg_get_userbyid(relowner), current_setting('server_version_num')::int < 160000 OR EXISTS (
                SELECT FROM pg_auth_members JOIN pg_roles r ON r.oid = member
                WHERE roleid = relowner AND admin_option AND NOT rolsuper
            )
            {_TABLES_AND_SEQUENCES} AND NOT {_OF_AN_EXTENSION}
            AND NOT (pg_has_role(relowner, 'USAGE') AND CASE
                WHEN current_setting('server_version_num')::int >= 160000 THEN pg_has_role(relowner, 'SET')
                ELSE true END)
            ORDER BY 1
            """
        )
    ]


def sequences_of(sql: Session) -> str:
    """JSON: oid, last value, whether that was given out already.

    An extension's is its own affair unless the login may set it, too.
    """
    names = sql.rows(
        f"""
        SELECT c.oid::text, format('%I.%I', nspname, relname) {_RELATIONS}
        WHERE relkind = 'S' AND relpersistence <> 't' AND {_CUSTOMERS} AND (NOT {_OF_AN_EXTENSION}
            OR has_schema_privilege(n.oid, 'USAGE')
            AND has_sequence_privilege(c.oid, 'SELECT') AND has_sequence_privilege(c.oid, 'UPDATE'))
        ORDER BY 1
        """
    )
    found = []
    for start in range(0, len(names), _TOGETHER):
        found += sql.rows(
            " UNION ALL ".join(
                f"SELECT '{oid}', last_value::text, is_called FROM {name}"
                for oid, name in names[start : start + _TOGETHER]
            )
        )
    return json.dumps(found)


_TOGETHER = 100
CARRY_SEQUENCES = """
SELECT setval((one->>0)::oid::regclass, (one->>1)::bigint, (one->>2)::boolean)
FROM jsonb_array_elements(CAST(:sequences AS jsonb)) one
"""

_IDENTITY = """
pg_index WHERE indrelid = c.oid AND indisvalid
    AND (relreplident = 'd' AND indisprimary AND indimmediate OR relreplident = 'i' AND indisreplident)
"""
WITHOUT_IDENTITY = f"""
SELECT format('%I.%I', nspname, relname) {_TABLES} AND relreplident <> 'f' AND NOT EXISTS (SELECT FROM {_IDENTITY})
"""
# CheckCmdReplicaIdentity and pub_contains_invalid_column in PostgreSQL 18: all of a row is not sent then.
WITH_UNSENT_IDENTITY = f"""
SELECT format('%I.%I', nspname, relname) {_TABLES} AND relreplident = 'f'
AND current_setting('server_version_num')::int >= 180000
AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND attgenerated <> '')
"""
_BASE_TYPE = "(CASE typtype WHEN 'd' THEN typbasetype ELSE t.oid END)::regtype::text"
"""Of ``t``, or of what a domain is made of."""
# By all of a row the copy looks for it: there is no identity, and no key either, which it would take instead.
_BY_ALL_OF_A_ROW = """
relreplident = 'f' AND NOT EXISTS (
    SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary AND indisvalid AND indimmediate
)
"""
# It takes a column for different that is not sent, finds no row, and goes on (release notes of 14.8 and 15.3).
_COMPARES_WHAT_IS_NOT_SENT = """
current_setting('server_version_num')::int < 140008
OR current_setting('server_version_num')::int BETWEEN 150000 AND 150002
"""
# The copy counts on from the snapshot, one for each transaction that it applies, so it gives out once more what the
# source has given out; whoever remembers how far he has read by such a number would pass over what is new.
_TRANSACTION_IDS = "'^(xid|xid8|txid_snapshot|pg_snapshot)(\\[\\])?$'"
_ASKS_FOR_THEM = "'(txid|pg)_(current_(xact_id|snapshot)|snapshot_xm|visible_in_snapshot)|txid_current'"
_WITH_TRANSACTION_IDS = f"""
SELECT format('%I.%I', nspname, relname) {_TABLES} AND EXISTS (
    SELECT FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
      AND {_BASE_TYPE} ~ {_TRANSACTION_IDS}
)
UNION SELECT format('%I.%I', nspname, relname) {_RELATIONS} JOIN pg_attrdef ON adrelid = c.oid
WHERE {_CUSTOMERS} AND NOT {_OF_AN_EXTENSION} AND pg_get_expr(adbin, adrelid) ~* {_ASKS_FOR_THEM}
UNION SELECT format('%I.%I()', nspname, proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE {_CUSTOMERS}
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')
  AND (prosrc ~* {_ASKS_FOR_THEM} OR pg_get_function_sqlbody(p.oid) ~* {_ASKS_FOR_THEM})
ORDER BY 1
"""
# Of PostgreSQL's own types; an extension's that has none is met by the worker that applies, and it goes no further.
_WITHOUT_EQUALITY = "json|xml|point|line|lseg|box|path|polygon|circle"


def limitations(sql: Session, database: str, accept: Sequence[str]) -> Iterator[Finding]:
    """What in a database cannot be replicated, or must not be published."""
    for what, advice, statement in (
        (
            "table(s) without a replica identity, whose rows could no longer be changed once they are published",
            "give them a primary key, or ALTER TABLE … REPLICA IDENTITY FULL",
            WITHOUT_IDENTITY,
        ),
        (
            "table(s) whose rows PostgreSQL 18 would no longer let anybody change once they are published: REPLICA "
            "IDENTITY FULL, and a generated column",
            "give them a primary key, and REPLICA IDENTITY DEFAULT",
            WITH_UNSENT_IDENTITY,
        ),
        (
            "table(s) whose rows the copy could not find: a column of a type without equality, and no primary key",
            "give them a primary key, and REPLICA IDENTITY DEFAULT",
            f"""
            SELECT format('%I.%I', nspname, relname) {_TABLES} AND {_BY_ALL_OF_A_ROW}
            AND EXISTS (
                SELECT FROM pg_attribute JOIN pg_type t ON t.oid = atttypid WHERE attrelid = c.oid AND attnum > 0
                AND {_BASE_TYPE}
                    ~ '^({_WITHOUT_EQUALITY})(\\[\\])?$'
            )
            """,
        ),
        (
            "table(s) whose rows this version of PostgreSQL could not find on the copy: a column that was dropped or "
            "is generated, and no primary key",
            "upgrade to 14.8 or 15.3, or give them a primary key",
            f"""
            SELECT format('%I.%I', nspname, relname) {_TABLES} AND {_BY_ALL_OF_A_ROW} AND ({_COMPARES_WHAT_IS_NOT_SENT})
            AND EXISTS (
                SELECT FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND (attisdropped OR attgenerated <> '')
            )
            """,
        ),
        (
            "table(s) whose rows the copy could not find: a generated column in the primary key or replica identity",
            "use another unique index: ALTER TABLE … REPLICA IDENTITY USING INDEX",
            f"""
            SELECT format('%I.%I', nspname, relname) {_TABLES} AND EXISTS (
                SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
                WHERE indrelid = c.oid AND attgenerated <> ''
                  AND (relreplident = 'i' AND indisreplident OR relreplident <> 'i' AND indisprimary)
            )
            """,
        ),
        (
            "table(s) with row security for their owner too, as whom the copy would apply",
            "ALTER TABLE … NO FORCE ROW LEVEL SECURITY until the cutover",
            f"SELECT format('%I.%I', nspname, relname) {_TABLES} AND relrowsecurity AND relforcerowsecurity",
        ),
        (
            "trigger(s) that act on replicated rows as well (ENABLE ALWAYS or REPLICA)",
            "ALTER TABLE … ENABLE TRIGGER until the cutover",
            "SELECT tgname::text FROM pg_trigger WHERE tgenabled IN ('A', 'R')",
        ),
        (
            "event trigger(s), which would act on the copy when it subscribes, and write there perhaps",
            "ALTER EVENT TRIGGER … DISABLE until the cutover",
            f"""
            SELECT evtname::text FROM pg_event_trigger e WHERE evtenabled <> 'D' AND evtowner NOT IN {_RDSS_ROLES}
            AND NOT EXISTS (
                SELECT FROM pg_depend WHERE classid = 'pg_event_trigger'::regclass AND objid = e.oid AND deptype = 'e')
            """,
        ),
        (
            "setting(s) of the database by which the copy keeps others from writing while the rotation logs in to it",
            "ALTER DATABASE … RESET default_transaction_read_only until the cutover, or set it for roles",
            f"SELECT one {_READ_ONLY_BY_DEFAULT}",
        ),
        (
            "large object(s), which are not replicated",
            "move them into a column (bytea), or choose another strategy",
            "SELECT oid::text FROM pg_largeobject_metadata",
        ),
        (
            "table(s) of an extension of which the login may not read all (rights, or row security), so that nobody "
            "could tell whether they have changed",
            "GRANT SELECT on them to the login, and USAGE on their schema; or choose another strategy",
            f"""
            SELECT format('%I.%I', nspname, relname) {_TABLES_OF_EXTENSIONS}
            AND (NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
                 OR row_security_active(c.oid))
            """,
        ),
    ):
        found = [name for (name,) in sql.rows(f"SELECT one FROM ({statement}) found (one) ORDER BY 1 LIMIT 1001")]
        if found:
            yield Finding(
                name="NotReplicable",
                message=f"{_counted(found)} {what}, in {database}: {named(found)}",
                advice=advice,
            )
    yield from cron_jobs(sql, database, unseen_accepted="pg-cron" in accept)
    if "transaction-ids" not in accept and (users := [name for (name,) in sql.rows(_WITH_TRANSACTION_IDS)]):
        yield Finding(
            name="TransactionIds",
            message=f"{database} has to do with ids of transactions, which go back on the copy: {named(users)}",
            advice="let whoever remembers one begin anew after the cutover, and accept it: "
            '"Accept": ["transaction-ids"]',
        )
    if "materialized-views" not in accept:
        views = [
            name
            for (name,) in sql.rows(
                "SELECT relname::text FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY 1"
            )
        ]
        if views:
            yield Finding(
                name="MaterializedViews",
                message=f"materialized view(s) of {database} would be as they were at the snapshot: {named(views)}",
                advice='REFRESH them after the cutover, and accept it: "Accept": ["materialized-views"]',
            )


def _counted(found: Sequence[str]) -> str:
    return str(len(found)) if len(found) <= 1000 else "more than 1000"
