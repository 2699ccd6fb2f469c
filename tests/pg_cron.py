"""What stands for pg_cron, which is in no distribution of PostgreSQL that tests could have: an extension of that name.

Its table has the real one's policy (pg_cron.sql), by which everybody sees his own jobs.
"""

INSTALL = """
CREATE SCHEMA cron; CREATE TABLE cron.job (jobid int, username text, active bool);
CREATE POLICY own ON cron.job USING (username = current_user); ALTER TABLE cron.job ENABLE ROW LEVEL SECURITY;
GRANT USAGE ON SCHEMA cron TO PUBLIC; GRANT SELECT ON cron.job TO PUBLIC;
SET allow_system_table_mods = on;
INSERT INTO pg_extension SELECT 99999, 'pg_cron', 10, oid, false, '1.6' FROM pg_namespace WHERE nspname = 'cron';
RESET allow_system_table_mods;
ALTER EXTENSION pg_cron ADD TABLE cron.job
"""
SHOW_TO_ALL = "ALTER TABLE cron.job DISABLE ROW LEVEL SECURITY"
REMOVE = "DROP EXTENSION pg_cron CASCADE; DROP SCHEMA cron CASCADE"
