-- ClickHouse 24.8 and later: what `imds-analyzer report` says of callers and hosts, from the same logs.
--
-- Change the path below, then:  clickhouse local --queries-file clickhouse.sql
-- In a server, the path is relative to its user_files; or put s3('https://...', ...) in place of file(...). Files that end in
-- .gz and .zst are read as they are.
--
-- Views: imds_callers (who calls, on which host: counts, first and last v1 call), imds_hosts (counts and reasons),
-- imds_verdicts. The two queries at the end show what most people look for first.
--
-- Unlike the report, the queries do not notice files and lines that were delivered twice, gaps without the analyzer, and
-- lines that cannot be read. So a host without a reason here is not yet ready: ask the report before tokens are required.

-- A table, so that the logs are read once.
CREATE OR REPLACE TABLE imds_raw ENGINE = MergeTree ORDER BY tuple() AS
SELECT *
FROM file(
  '/srv/logs/**/events.jsonl*', 'JSONEachRow',
  '`@timestamp` String,
   event Tuple(action String),
   cloud Tuple(account Tuple(id Nullable(String)), region Nullable(String), instance Tuple(id Nullable(String))),
   host Tuple(name String, uptime Nullable(Int64)),
   imds Tuple(caller Nullable(String), version Nullable(String), verdict Nullable(String), local Nullable(Bool), relay Nullable(Bool), answer Nullable(String),
     calls Tuple(v1 Int64, v2 Int64, other Int64, unknown Int64),
     local_calls Tuple(v1 Int64, v2 Int64, other Int64, unknown Int64),
     v1_answers Tuple(succeeded Int64, rejected Int64),
     ignored Tuple(v1 Int64), attached Nullable(String), loss Map(String, Int64)),
   process Tuple(name Nullable(String), executable Nullable(String)),
   user Tuple(id Nullable(String), name Nullable(String)),
   http Tuple(response Tuple(status_code Nullable(Int32)))')
SETTINGS input_format_skip_unknown_fields = 1, input_format_json_ignore_unknown_keys_in_named_tuple = 1,
  input_format_json_defaults_for_missing_elements_in_named_tuple = 1, input_format_allow_errors_ratio = 1;

-- One row for each record, with the fields that count.
CREATE OR REPLACE VIEW imds_flat AS
SELECT
  coalesce(cloud.instance.id, host.name) AS host_key,
  host.name AS host_name,
  cloud.account.id AS account,
  cloud.region AS region,
  `@timestamp` AS time,
  toUnixTimestamp64Micro(parseDateTime64BestEffort(`@timestamp`, 6, 'UTC')) AS micros,
  event.action AS action,
  coalesce(imds.caller, process.executable, process.name) AS caller,
  user.id AS uid,
  user.name AS user_name,
  imds.version AS version,
  imds.verdict AS verdict,
  coalesce(imds.local, FALSE) AS is_local,
  coalesce(imds.relay, FALSE) AS is_relay,
  imds.answer AS answer,
  http.response.status_code AS status,
  coalesce(imds.calls.v1, 0) AS folded_v1,
  coalesce(imds.calls.v2, 0) AS folded_v2,
  coalesce(imds.calls.other, 0) AS folded_other,
  coalesce(imds.calls.unknown, 0) AS folded_unknown,
  coalesce(imds.local_calls.v1, 0) AS local_v1,
  coalesce(imds.local_calls.v2, 0) AS local_v2,
  coalesce(imds.local_calls.other, 0) AS local_other,
  coalesce(imds.local_calls.unknown, 0) AS local_unknown,
  coalesce(imds.v1_answers.succeeded, 0) AS answers_succeeded,
  coalesce(imds.v1_answers.rejected, 0) AS answers_rejected,
  coalesce(imds.ignored.v1, 0) AS ignored_v1,
  CASE WHEN imds.attached IS NOT NULL THEN coalesce(host.uptime, 999999999) END AS uptime
FROM imds_raw
WHERE event.action != '';

CREATE OR REPLACE VIEW imds_losses AS
SELECT host_key, action, loss.1 AS kind, loss.2 AS amount
FROM (
  SELECT
    coalesce(cloud.instance.id, host.name) AS host_key, event.action AS action,
    arrayJoin(arrayZip(mapKeys(imds.loss), mapValues(imds.loss))) AS loss
  FROM imds_raw
  WHERE event.action IN ('imds-analyzer-loss', 'imds-analyzer-summary')
) AS records;

-- From here on, the text is the same for all engines, but for the name of max_by.

-- Calls by record: each row counts the calls of one caller, either to the metadata service or, if is_local, to an address
-- of the host itself. Relayed calls are left out: each has a record of its own.
CREATE OR REPLACE VIEW imds_calls AS
SELECT
  host_key, time, is_local, caller,
  CASE WHEN caller IS NOT NULL THEN uid END AS user_id, user_name,
  CASE WHEN version = 'v1' THEN 1 ELSE 0 END AS calls_v1,
  CASE WHEN version = 'v1' AND answer = 'answered' AND status = 200 THEN 1 ELSE 0 END AS calls_v1_succeeded,
  CASE WHEN version = 'v1' AND answer = 'answered' AND status = 401 THEN 1 ELSE 0 END AS calls_v1_rejected,
  CASE WHEN version = 'v2' THEN 1 ELSE 0 END AS calls_v2,
  CASE WHEN version = 'other' THEN 1 ELSE 0 END AS calls_other,
  CASE WHEN version IN ('v1', 'v2', 'other') THEN 0 ELSE 1 END AS calls_unknown,
  CASE WHEN verdict = 'v2-token-request' AND answer = 'none' THEN 1 ELSE 0 END AS calls_unanswered
FROM imds_flat
WHERE action = 'imds-request' AND NOT is_relay
UNION ALL
-- Calls that were only counted.
SELECT
  host_key, time, FALSE, caller, CASE WHEN caller IS NOT NULL THEN uid END, user_name,
  greatest(folded_v1 - local_v1, 0), answers_succeeded, answers_rejected,
  greatest(folded_v2 - local_v2, 0), greatest(folded_other - local_other, 0), greatest(folded_unknown - local_unknown, 0), 0
FROM imds_flat
WHERE action = 'imds-analyzer-rate-limited'
  AND (folded_v1 > local_v1 OR folded_v2 > local_v2 OR folded_other > local_other OR folded_unknown > local_unknown)
UNION ALL
SELECT
  host_key, time, TRUE, caller, CASE WHEN caller IS NOT NULL THEN uid END, user_name,
  local_v1, 0, 0, local_v2, local_other, local_unknown, 0
FROM imds_flat
WHERE action = 'imds-analyzer-rate-limited' AND local_v1 + local_v2 + local_other + local_unknown > 0;

-- Who calls, on which host.
CREATE OR REPLACE VIEW imds_callers AS
SELECT
  host_key, is_local, caller, user_id,
  coalesce(argMax(user_name, CASE WHEN user_name IS NOT NULL THEN time END), user_id) AS user_shown,
  sum(calls_v1) AS v1, sum(calls_v1_succeeded) AS v1_succeeded, sum(calls_v1_rejected) AS v1_rejected,
  sum(calls_v2) AS v2, sum(calls_other) AS other, sum(calls_unknown) AS unknown, sum(calls_unanswered) AS tokens_unanswered,
  min(CASE WHEN calls_v1 > 0 THEN time END) AS first_v1,
  max(CASE WHEN calls_v1 > 0 THEN time END) AS last_v1
FROM imds_calls
GROUP BY host_key, is_local, caller, user_id;

-- What was lost, by host: reports while the analyzer ran, or what it said at its end, whichever is more. The kinds that
-- are left out are notes: no record is missing.
CREATE OR REPLACE VIEW imds_lost AS
SELECT host_key, sum(greatest(reported, at_end)) AS lost
FROM (
  SELECT
    host_key, kind,
    sum(CASE WHEN action = 'imds-analyzer-loss' THEN amount ELSE 0 END) AS reported,
    sum(CASE WHEN action = 'imds-analyzer-summary' THEN amount ELSE 0 END) AS at_end
  FROM imds_losses
  WHERE kind NOT IN ('spare_state', 'answer_state', 'answer_streams', 'late_answers',
    'process_read_failures', 'processes_unannounced', 'container_names_overdue', 'user_names_overdue')
  GROUP BY host_key, kind
) AS kinds
GROUP BY host_key;

-- Hosts: the counts, and the reasons against requiring tokens that SQL can tell. 7 days are the window of the report.
CREATE OR REPLACE VIEW imds_hosts AS
SELECT
  records.host_key AS host_key, records.host_name AS host_name, records.account AS account, records.region AS region,
  records.since AS since, records.until AS until, records.hours AS hours, records.too_short AS too_short,
  records.no_boot AS no_boot, records.ignored AS ignored,
  coalesce(calls.v1, 0) AS v1, coalesce(calls.v1_succeeded, 0) AS v1_succeeded,
  coalesce(calls.v1_rejected, 0) AS v1_rejected, coalesce(calls.v2, 0) AS v2, coalesce(calls.other, 0) AS other,
  coalesce(calls.unknown, 0) AS unknown, coalesce(calls.local_calls, 0) AS local_calls,
  coalesce(unanswered.callers, 0) AS unanswered, coalesce(imds_lost.lost, 0) AS lost
FROM (
  SELECT
    host_key, max(host_name) AS host_name, max(account) AS account, max(region) AS region,
    min(time) AS since, max(time) AS until,
    count(DISTINCT substr(time, 1, 13)) AS hours,
    CASE WHEN max(micros) - min(micros) < 604800000000 THEN 1 ELSE 0 END AS too_short,
    CASE WHEN min(uptime) > 300 THEN 1 ELSE 0 END AS no_boot,
    sum(ignored_v1) AS ignored
  FROM imds_flat
  GROUP BY host_key
) AS records
LEFT JOIN (
  SELECT
    host_key,
    sum(CASE WHEN is_local THEN 0 ELSE calls_v1 END) AS v1,
    sum(CASE WHEN is_local THEN 0 ELSE calls_v1_succeeded END) AS v1_succeeded,
    sum(CASE WHEN is_local THEN 0 ELSE calls_v1_rejected END) AS v1_rejected,
    sum(CASE WHEN is_local THEN 0 ELSE calls_v2 END) AS v2,
    sum(CASE WHEN is_local THEN 0 ELSE calls_other END) AS other,
    sum(CASE WHEN is_local THEN 0 ELSE calls_unknown END) AS unknown,
    sum(CASE WHEN is_local THEN calls_v1 + calls_v2 + calls_other + calls_unknown ELSE 0 END) AS local_calls
  FROM imds_calls
  GROUP BY host_key
) AS calls ON calls.host_key = records.host_key
LEFT JOIN (
  SELECT host_key, count(*) AS callers
  FROM imds_callers
  WHERE tokens_unanswered > 0 AND NOT is_local
  GROUP BY host_key
) AS unanswered ON unanswered.host_key = records.host_key
LEFT JOIN imds_lost ON imds_lost.host_key = records.host_key;

-- Verdicts. `no-reason` is `ready`, unless the report finds a gap, an unreadable line, an impossible clock or a call that
-- only CloudWatch counted: these take more than a query.
CREATE OR REPLACE VIEW imds_verdicts AS
SELECT
  host_key, host_name, account, region,
  CASE
    WHEN v1 > 0 THEN 'not-ready'
    WHEN unknown + unanswered + lost + ignored + too_short + no_boot > 0 THEN 'unproven'
    ELSE 'no-reason'
  END AS verdict,
  v1, v1_rejected, unknown, unanswered, ignored, lost, too_short, no_boot
FROM imds_hosts;

-- Who has to change something, those that are broken now first.
SELECT * FROM imds_callers
WHERE NOT is_local AND (v1 > 0 OR unknown > 0 OR tokens_unanswered > 0)
ORDER BY v1_rejected DESC, v1 DESC, host_key;

SELECT * FROM imds_verdicts ORDER BY verdict, host_key;
