"""The queries of packaging/sql against the report: check.py REPORT.json LOGS [duckdb|clickhouse|spark|parse ...]

REPORT.json is what `imds-analyzer report LOGS --format json` prints. Exits with 1 and says what differs, if anything does.
Each engine needs its package from PyPI: duckdb, chdb, pyspark (and Java), sqlglot for `parse`.
"""

import json
import pathlib
import sys
import tempfile

SQL = pathlib.Path(__file__).resolve().parents[2] / "packaging" / "sql"
SAME = "-- From here on, the text is the same for all engines"
# What a query does not see: a host that has only these reasons has none here.
BEYOND = {"gap", "unreadable", "clock", "metric", "too-many", "no-records"}
CALLERS = (
    "SELECT host_key, is_local, caller, user_shown, v1, v1_succeeded, v1_rejected, v2, other, unknown,"
    " tokens_unanswered, first_v1, last_v1 FROM imds_callers"
)
HOSTS = (
    "SELECT h.host_key, h.since, h.until, h.hours, h.v1, h.v1_succeeded, h.v1_rejected, h.v2, h.other, h.unknown,"
    " h.local_calls, h.unanswered, h.ignored, h.lost, h.too_short, h.no_boot, v.verdict"
    " FROM imds_hosts AS h JOIN imds_verdicts AS v ON v.host_key = h.host_key"
)


def text(engine, logs):
    """The statements for an engine, with the path of the logs."""
    return (SQL / f"{engine}.sql").read_text().replace("/srv/logs", str(logs))


def statements(engine, logs):
    """The statements one by one; no text in them has a semicolon."""
    lines = [line for line in text(engine, logs).splitlines() if not line.startswith("--")]
    return [one.strip() for one in "\n".join(lines).split(";") if one.strip()]


def duckdb(logs):
    import duckdb

    session = duckdb.connect()
    for statement in statements("duckdb", logs):
        session.sql(statement)
    return [session.sql(query).fetchall() for query in (CALLERS, HOSTS)]


def clickhouse(logs):
    import chdb.session

    session = chdb.session.Session()
    for statement in statements("clickhouse", logs):
        session.query(statement, "JSONCompact")

    def rows(query):
        answer = json.loads(str(session.query(query, "JSONCompact")))
        names = [column["type"] for column in answer["meta"]]
        # 64-bit numbers come as text.
        is_number = ["Int" in name for name in names]
        return [
            tuple(int(value) if number and value is not None else value for value, number in zip(row, is_number))
            for row in answer["data"]
        ]

    return [rows(CALLERS), rows(HOSTS)]


def spark(logs):
    from pyspark.sql import SparkSession

    with tempfile.TemporaryDirectory() as warehouse:
        builder = SparkSession.builder.master("local[2]").config("spark.sql.warehouse.dir", warehouse)
        builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.ui.enabled", "false")
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
        builder = builder.config("spark.sql.shuffle.partitions", "4").config("spark.ui.showConsoleProgress", "false")
        session = builder.getOrCreate()
        try:
            for statement in statements("spark", logs):
                session.sql(statement)
            return [[tuple(row) for row in session.sql(query).collect()] for query in (CALLERS, HOSTS)]
        finally:
            session.stop()


def key(host):
    return host.get("instance") or host["name"]


def compare(what, found, expected):
    """Fails unless two dictionaries are the same."""
    for name in sorted(set(found) | set(expected), key=str):
        if found.get(name) != expected.get(name):
            sys.exit(f"{what} {name}:\n  the query has  {found.get(name)}\n  the report has {expected.get(name)}")
    print(f"{what}: {len(expected)} rows are equal")


def check(engine, answers, report):
    callers, hosts = answers
    counts = ("v1", "v2", "other", "unknown")

    def of(calls):
        return tuple(calls[name] for name in counts)

    # Callers of each host that keep it from being ready: the report names no others by host.
    found = {
        (row[0], row[2], row[3]): (row[4], row[7], row[8], row[9], row[5], row[6])
        for row in callers
        if not row[1] and (row[4] or row[9] or row[10])
    }
    expected = {
        (key(host), caller.get("caller"), caller.get("user")): of(caller["calls"])
        + (caller["v1_answers"]["succeeded"], caller["v1_answers"]["rejected"])
        for host in report["hosts"]
        for caller in host["callers"]
    }
    compare(f"{engine}: callers that keep hosts from being ready", found, expected)

    # All callers, of all hosts together.
    found = {}
    for row in callers:
        name = (bool(row[1]), row[2], row[3])
        sums, first, last, on = found.get(name, ((0,) * 6, None, None, 0))
        sums = tuple(a + b for a, b in zip(sums, (row[4], row[7], row[8], row[9], row[5], row[6])))
        first = min(filter(None, (first, row[11])), default=None)
        last = max(filter(None, (last, row[12])), default=None)
        found[name] = (sums, first, last, on + 1)
    expected = {
        (caller["local"], caller.get("caller"), caller.get("user")): (
            of(caller["calls"])
            + ((caller["v1_answers"]["succeeded"], caller["v1_answers"]["rejected"]) if not caller["local"] else (0, 0)),
            caller.get("first_v1"),
            caller.get("last_v1"),
            caller["hosts"],
        )
        for caller in report["callers"]
    }
    for name, (sums, *rest) in found.items():
        if name[0]:
            found[name] = (sums[:4] + (0, 0), *rest)
    compare(f"{engine}: callers of the fleet", found, expected)

    found = {row[0]: row[1:] for row in hosts}
    expected = {}
    for host in report["hosts"]:
        reasons = {reason["reason"]: reason["count"] for reason in host["reasons"]}
        answers_of = host["v1_answers"]
        verdict = host["verdict"]
        if verdict == "ready" or verdict == "unproven" and not set(reasons) - BEYOND:
            verdict = "no-reason"
        expected[key(host)] = (
            host["since"], host["until"], host["hours"],
            host["calls"]["v1"], answers_of["succeeded"], answers_of["rejected"],
            host["calls"]["v2"], host["calls"]["other"], host["calls"]["unknown"],
            sum(of(host["local_calls"])),
            reasons.get("token-unanswered", 0), reasons.get("ignored", 0), reasons.get("lost", 0),
            int("too-short" in reasons), int("no-boot" in reasons), verdict,
        )  # fmt: skip
    compare(f"{engine}: hosts", found, expected)


def parse():
    """Parses what is not run here, and checks that the common half of all files is the same."""
    import sqlglot

    for engine in ("athena", "duckdb", "spark", "clickhouse"):
        parsed = sqlglot.parse(text(engine, "/srv/logs"), dialect=engine)
        commands = [one.sql()[:60] for one in parsed if isinstance(one, sqlglot.exp.Command)]
        if commands:
            sys.exit(f"{engine}: not understood: {commands}")
        print(f"{engine}: {len(parsed)} statements parsed")
    halves = {
        text(engine, "").split(SAME)[1].replace("argMax(", "max_by(")
        for engine in ("athena", "duckdb", "spark", "clickhouse")
    }
    if len(halves) != 1:
        sys.exit("the common half differs between files")


def main():
    report = json.loads(pathlib.Path(sys.argv[1]).read_text())
    logs = pathlib.Path(sys.argv[2]).resolve()
    engines = {"duckdb": duckdb, "clickhouse": clickhouse, "spark": spark}
    for engine in sys.argv[3:]:
        if engine == "parse":
            parse()
        else:
            check(engine, engines[engine](logs), report)


if __name__ == "__main__":
    main()
