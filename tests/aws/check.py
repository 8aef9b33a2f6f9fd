"""The report against CloudWatch and EC2, with moto in the place of AWS: check.py IMDS-ANALYZER LOGS

Needs moto[server,ec2,cloudwatch] and awscli from PyPI, in the environment of this Python. LOGS is a log of one host that is
ready; its host becomes two instances, one of which makes calls that nobody sees. Exits with 1 and says what is wrong, if
anything is.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BIN = pathlib.Path(sys.executable).parent
RUNBOOK = pathlib.Path(__file__).resolve().parents[2] / "docs" / "runbook.md"
REGION = "eu-central-1"


def start():
    """Starts moto on a free port; returns the process and its URL."""
    moto = subprocess.Popen(
        [BIN / "moto_server", "-H", "127.0.0.1", "-p", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in moto.stdout:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            return moto, f"http://127.0.0.1:{found[1]}"
    sys.exit("moto does not start")


def environment(url, directory):
    """No way to AWS or to the metadata service of this machine. The shell finds the AWS CLI of this environment first."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return known | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(directory),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": url,
        "AWS_PAGER": "",
    }


class Check:
    def __init__(self, analyzer, url, directory):
        self.analyzer, self.url, self.directory = analyzer, url, directory
        self.environment = environment(url, directory)

    def run(self, *command, code=0, **more):
        done = subprocess.run(
            command, env=self.environment, cwd=self.directory, capture_output=True, text=True, timeout=120, **more
        )
        if done.returncode != code:
            sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def aws(self, *args):
        """Runs the AWS CLI; returns what it prints."""
        text = self.run(str(BIN / "aws"), *args, "--output", "json")
        return json.loads(text) if text.strip() else None

    def report(self, *args):
        return self.run(self.analyzer, "report", *args)

    def instance(self):
        image = self.aws("ec2", "describe-images", "--owners", "amazon")["Images"][0]["ImageId"]
        options = ["--image-id", image, "--metadata-options", "HttpTokens=optional,HttpPutResponseHopLimit=1"]
        return self.aws("ec2", "run-instances", *options)["Instances"][0]["InstanceId"]

    def tokens(self, instance):
        """What an instance requires, and its hop limit."""
        found = self.aws("ec2", "describe-instances", "--instance-ids", instance)
        options = found["Reservations"][0]["Instances"][0]["MetadataOptions"]
        return options["HttpTokens"], options["HttpPutResponseHopLimit"]


def script(heading):
    """The shell scripts of a section of the runbook."""
    section = RUNBOOK.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def check(condition, what):
    if not condition:
        sys.exit(f"wrong: {what}")
    print(f"right: {what}")


def main():
    analyzer, logs = (str(pathlib.Path(arg).resolve()) for arg in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as directory:
        moto, url = start()
        try:
            steps(Check(analyzer, url, pathlib.Path(directory)), pathlib.Path(logs))
        finally:
            moto.terminate()
            moto.wait()


def steps(it, log):
    # The log of the host, as if two instances had written it.
    seen, unseen = it.instance(), it.instance()
    logs = it.directory / "logs"
    logs.mkdir()
    name = json.loads(log.read_text().splitlines()[0])["cloud"]["instance"]["id"]
    until = None
    for number, instance in enumerate((seen, unseen)):
        text = log.read_text().replace(name, instance)
        text = re.sub(r'"region":"[a-z0-9-]+"', f'"region":"{REGION}"', text)
        text = re.sub(r'"host":\{"name":"[^"]+"', f'"host":{{"name":"host-{number}"', text)
        (logs / f"{instance}.jsonl").write_text(text)
        until = json.loads(text.splitlines()[-1])["@timestamp"]

    def verdicts(*args):
        report = json.loads(it.report(str(logs), "--format", "json", *args))
        return {
            host["instance"]: (host["verdict"], [reason["reason"] for reason in host["reasons"]])
            for host in report["hosts"]
        }

    ready = ("ready", [])
    check(verdicts() == {seen: ready, unseen: ready}, "without CloudWatch both hosts are ready")

    # What the agents of EC2 would do.
    for instance, count in ((seen, 0), (unseen, 3)):
        for metric in ("MetadataNoToken", "MetadataNoTokenRejected"):
            value = count if metric == "MetadataNoToken" else 0
            it.aws(
                *("cloudwatch", "put-metric-data", "--namespace", "AWS/EC2", "--metric-name", metric),
                *("--dimensions", f"InstanceId={instance}", "--value", str(value), "--unit", "Count"),
                *("--timestamp", until[:10] + "T00:30:00Z"),
            )

    queries, change = script("From report to required tokens")
    environment = {"SINCE": until[:8] + "01T00:00:00Z", "UNTIL": until[:10] + "T23:59:00Z"}
    it.environment |= environment | {"LOGS": str(logs)}
    queries = queries.replace("imds-analyzer report", f"{it.analyzer} report")
    it.run("sh", "-eu", "-c", queries)
    metrics = json.loads((it.directory / "metrics.json").read_text())
    labels = {result["Label"] for result in metrics["MetricDataResults"]}
    check(f"{unseen} MetadataNoToken" in labels, "the label of a result is the instance and the metric")
    found = verdicts("--cloudwatch", str(it.directory / "metrics.json"))
    check(found[unseen] == ("unproven", ["metric"]), "a call that no record explains makes a host unproven: metric")
    check(found[seen] == ready, "a metric of 0 leaves the other host ready")

    optional, required = ("optional", 1), ("required", 1)
    check((it.tokens(seen), it.tokens(unseen)) == (optional, optional), "before: tokens are optional")
    path = it.directory / "require-tokens.sh"
    check(path.is_file(), "the runbook's commands write the script")
    changes = [line for line in change.splitlines() if line and not line.startswith("#")]
    it.run("sh", "-eu", "-c", "\n".join(line for line in changes if "undo" not in line))
    hops = it.tokens(seen)[1]
    check(it.tokens(seen)[0] == "required", "after apply: tokens are required on the ready host")
    check(hops == (2 if "--http-put-response-hop-limit 2" in path.read_text() else 1), f"its hop limit is {hops}")
    check(it.tokens(unseen) == optional, "after apply: the unproven host is as it was")
    it.run("sh", "-eu", "-c", "\n".join(line for line in changes if "undo" in line))
    # moto forgets the options that a call does not name; EC2 keeps them, and so the hop limit.
    check(it.tokens(seen)[0] == "optional", "after undo: tokens are optional again")
    check(it.tokens(unseen) == optional, "after undo: the unproven host is as it was")
    it.run("sh", str(path), code=2)
    print(f"usage: without an argument the script ends with 2; moto at {it.url}")


if __name__ == "__main__":
    main()
