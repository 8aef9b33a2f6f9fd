//! The clients of the tour.

use super::Step;

/// Exit code of `curl --fail` when the server answers with an error. The Python scripts use it too.
pub(super) const REFUSED: i32 = 22;

const STEP: Step = Step {
    title: "",
    expect: "",
    command: &[],
    needs: &[],
    needs_ipv6: false,
};

pub(super) const ALL: &[Step] = &[
    Step {
        title: "curl without a token",
        expect: "one v1 request by curl",
        command: &["curl", "-sfm5", "http://169.254.169.254/latest/meta-data/instance-id"],
        needs: &["curl"],
        ..STEP
    },
    Step {
        title: "wget without a token",
        expect: "one v1 request by wget",
        command: &[
            "wget",
            "-qO-",
            "-T5",
            "-t1",
            "http://169.254.169.254/latest/meta-data/placement/region",
        ],
        needs: &["wget"],
        ..STEP
    },
    Step {
        title: "a shell script with a token",
        expect: "two v2 requests by curl: a PUT for the token and a GET with it",
        command: &["sh", "-c", CURL_V2],
        needs: &["curl"],
        ..STEP
    },
    Step {
        title: "the empty variable",
        expect: "one v1 request by curl, although its command line has the token header: the script has no token, and \
                 curl drops a header without a value",
        command: &["sh", "-c", EMPTY_VARIABLE],
        needs: &["curl"],
        ..STEP
    },
    Step {
        title: "Python fetches credentials without a token",
        expect: "one v1 request for credentials by python3: fix this kind first",
        command: &["python3", "-c", PYTHON_V1],
        needs: &["python3"],
        ..STEP
    },
    Step {
        title: "Python fetches credentials with a token",
        expect: "two v2 requests by python3, the second one for credentials",
        command: &["python3", "-c", PYTHON_V2],
        needs: &["python3"],
        ..STEP
    },
    Step {
        title: "curl over IPv6",
        expect: "one v1 request by curl to fd00:ec2::254",
        command: &["curl", "-gsfm5", "http://[fd00:ec2::254]/latest/meta-data/instance-id"],
        needs: &["curl"],
        needs_ipv6: true,
    },
    Step {
        title: "a program that drops its privileges",
        expect: "one v1 request by curl as user nobody (65534), started by root",
        command: &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "curl",
            "-sfm5",
            "http://169.254.169.254/latest/user-data",
        ],
        needs: &["setpriv", "curl"],
        ..STEP
    },
    Step {
        title: "a process whose parent is gone",
        expect: "one v1 request for the identity document by a curl whose parent has exited and that itself lives \
                 for milliseconds: its arguments are known all the same",
        command: &["sh", "-c", ORPHAN],
        needs: &["curl"],
        ..STEP
    },
    Step {
        title: "a program looking for another cloud",
        expect: "one other-cloud request by curl, which does not count as v1: the program checks for Google Cloud",
        // IMDS has no such path. The probe takes the error as "not Google Cloud".
        command: &[
            "curl",
            "-sm5",
            "-HMetadata-Flavor: Google",
            "http://169.254.169.254/computeMetadata/v1/",
        ],
        needs: &["curl"],
        ..STEP
    },
];

const CURL_V2: &str = r#"
TOKEN=$(curl -sfm5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token) || exit
curl -sfm5 -H "X-aws-ec2-metadata-token: $TOKEN" http://169.254.169.254/latest/meta-data/instance-id
"#;

const EMPTY_VARIABLE: &str = r#"
TOKEN=$(false)
curl -sfm5 -H "X-aws-ec2-metadata-token: $TOKEN" http://169.254.169.254/latest/meta-data/ami-id
"#;

/// The inner shell exits at once, so init becomes the parent of its child.
const ORPHAN: &str = "(curl -sfm5 http://169.254.169.254/latest/dynamic/instance-identity/document &)";

const PYTHON_V1: &str = r#"
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen("http://169.254.169.254/latest/meta-data/iam/security-credentials/lab-role", timeout=5).read()
except urllib.error.HTTPError:
    sys.exit(22)
"#;

const PYTHON_V2: &str = r#"
import sys, urllib.error, urllib.request
def fetch(path, method, headers):
    request = urllib.request.Request("http://169.254.169.254/latest/" + path, method=method, headers=headers)
    return urllib.request.urlopen(request, timeout=5).read().decode()
try:
    token = fetch("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    fetch("meta-data/iam/security-credentials/lab-role", "GET", {"X-aws-ec2-metadata-token": token})
except urllib.error.HTTPError:
    sys.exit(22)
"#;
