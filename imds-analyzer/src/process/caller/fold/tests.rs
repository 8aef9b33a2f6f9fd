use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::{path, unit};

#[test]
fn random_parts_are_folded() {
    for (given, expected) in [
        // Temporary directories and files: Python, mktemp(1), pip, Go, PyInstaller, AppImage, systemd, pytest.
        ("/tmp/tmpab12cd/x", "/tmp/tmp*/x"),
        ("/tmp/tmpk3_x9q0z/run.py", "/tmp/tmp*/run.py"),
        ("/tmp/tmpqwertzui.py", "/tmp/tmp*.py"),
        ("/tmp/tmp.Zk3xQ9aBcD/backup.sh", "/tmp/tmp.*/backup.sh"),
        ("/tmp/.tmpc6trmq/agent", "/tmp/.tmp*/agent"),
        ("/tmp/.tmpqwerty", "/tmp/.tmp*"),
        ("/var/tmp/tmp.abcdefghij", "/var/tmp/tmp.*"),
        ("/tmp/deploy.aB3xYz/run.sh", "/tmp/deploy.*/run.sh"),
        ("/tmp/job-48213.sh", "/tmp/job-*.sh"),
        ("/var/tmp/4711/run", "/var/tmp/*/run"),
        ("/dev/shm/a1b2c3d4e5/x", "/dev/shm/*/x"),
        (
            "/tmp/pip-build-k3x9q0ab/awscli/setup.py",
            "/tmp/pip-build-*/awscli/setup.py",
        ),
        ("/tmp/pip-req-build-abcdefgh/setup.py", "/tmp/pip-req-build-*/setup.py"),
        (
            "/tmp/pip-build-env-q_1abcde/overlay/bin/x",
            "/tmp/pip-build-env-*/overlay/bin/x",
        ),
        ("/tmp/go-build2733456789/b001/exe/main", "/tmp/go-build*/b001/exe/main"),
        ("/tmp/_MEIxY12ab/agent", "/tmp/_MEI*/agent"),
        ("/tmp/.mount_AppIma1a2B3c/usr/bin/app", "/tmp/.mount_*/usr/bin/app"),
        (
            "/tmp/systemd-private-0123456789abcdef0123456789abcdef-app.service-XyZabc/tmp/x.sh",
            "/tmp/systemd-private-*-app.service-*/tmp/x.sh",
        ),
        (
            "/tmp/pytest-of-root/pytest-12/test_call0/run.py",
            "/tmp/pytest-of-root/pytest-*/test_call*/run.py",
        ),
        ("/tmp/packer-shell123456", "/tmp/packer-shell*"),
        ("/tmp/script_1234.sh", "/tmp/script_*.sh"),
        ("/tmp/terraform_1903672842.sh", "/tmp/terraform_*.sh"),
        ("/tmp/npm-48211-a1b2c3d4/install.js", "/tmp/npm-*/install.js"),
        ("/tmp/jenkins1234567890123456789.sh", "/tmp/jenkins*.sh"),
        (
            "/home/runner/work/_temp/0d7c1a52-14a5-4c5e-9b1f-6a1d3c0f8e11.sh",
            "/home/runner/work/_temp/*.sh",
        ),
        // Hashes.
        (
            "/nix/store/0c0dkq3vz0ilxn3wl5hzm9kbv4f8l8m6-python3-3.11.4/bin/python3",
            "/nix/store/*-python3-3.11.4/bin/python3",
        ),
        (
            "/gnu/store/abcdfghijklmnpqrsvwxyz0123456789-curl-8.1/bin/curl",
            "/gnu/store/*-curl-8.1/bin/curl",
        ),
        ("/opt/app/3f2a1bc09d/run.py", "/opt/app/*/run.py"),
        (
            "/var/lib/docker/overlay2/5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c/merged/bin/x",
            "/var/lib/docker/overlay2/*/merged/bin/x",
        ),
        (
            "/var/lib/docker/overlay2/l/6Y5IM2XC7TSNIJZZFLJCS6I4I4/x",
            "/var/lib/docker/overlay2/l/*/x",
        ),
        ("/srv/01HF7Z8X9QK3T5V7W9Y1A3C5E7/job.rb", "/srv/*/job.rb"),
        (
            "/opt/codedeploy-agent/deployment-root/0d7c1a52-14a5-4c5e-9b1f-6a1d3c0f8e11/d-ABCDEFGHI/deployment-archive/x.sh",
            "/opt/codedeploy-agent/deployment-root/*/d-*/deployment-archive/x.sh",
        ),
        ("/memfd:a1b2c3d4e5f60718", "/memfd:*"),
        // Revisions of snaps.
        (
            "/snap/amazon-ssm-agent/7993/amazon-ssm-agent",
            "/snap/amazon-ssm-agent/*/amazon-ssm-agent",
        ),
        ("/snap/aws-cli/x1/bin/aws", "/snap/aws-cli/*/bin/aws"),
        (
            "/var/lib/snapd/snap/lxd/24322/bin/lxc",
            "/var/lib/snapd/snap/lxd/*/bin/lxc",
        ),
        // Ansible.
        (
            "/root/.ansible/tmp/ansible-tmp-1732500000.12-48213-123456789012345/AnsiballZ_setup.py",
            "/root/.ansible/tmp/ansible-tmp-*/AnsiballZ_setup.py",
        ),
        (
            "/tmp/ansible_ansible.legacy.setup_payload_x8d9s_2k/ansible_ansible.legacy.setup_payload.zip",
            "/tmp/ansible_ansible.legacy.setup_payload_*/ansible_ansible.legacy.setup_payload.zip",
        ),
        (
            "/tmp/ansible_ec2_payload_abcdefgh/__main__.py",
            "/tmp/ansible_ec2_payload_*/__main__.py",
        ),
        // Builds: Jenkins, GitLab, Buildkite, CodeBuild, YARN.
        (
            "/var/lib/jenkins/workspace/deploy@tmp/durable-1a2b3c4d/script.sh",
            "/var/lib/jenkins/workspace/deploy@tmp/durable-*/script.sh",
        ),
        (
            "/var/lib/jenkins/workspace/deploy@2/run.sh",
            "/var/lib/jenkins/workspace/deploy/run.sh",
        ),
        (
            "/var/lib/jenkins/workspace/deploy@3@tmp/durable-abcdefab/script.sh",
            "/var/lib/jenkins/workspace/deploy@tmp/durable-*/script.sh",
        ),
        (
            "/var/lib/jenkins/jobs/deploy/builds/117/run.sh",
            "/var/lib/jenkins/jobs/deploy/builds/*/run.sh",
        ),
        (
            "/home/gitlab-runner/builds/t3_Abcde/0/group/project/ci.sh",
            "/home/gitlab-runner/builds/*/*/group/project/ci.sh",
        ),
        (
            "/var/lib/buildkite-agent/builds/ip-10-0-3-17-1/org/deploy/run.sh",
            "/var/lib/buildkite-agent/builds/ip-*/org/deploy/run.sh",
        ),
        (
            "/codebuild/output/src2045/src/run.sh",
            "/codebuild/output/src*/src/run.sh",
        ),
        (
            "/mnt/yarn/appcache/application_1732500000000_0001/container_1732500000000_0001_01_000001/launch_container.sh",
            "/mnt/yarn/appcache/application_*/container_*/launch_container.sh",
        ),
        // Numbers and times.
        ("/proc/4711/root/bin/x", "/proc/*/root/bin/x"),
        ("/proc/self/fd/7", "/proc/self/fd/*"),
        ("/dev/fd/63", "/dev/fd/*"),
        ("/srv/run-1732500000-17.sh", "/srv/run-*.sh"),
        ("/srv/backup-2026-11-25T10-11-12.sh", "/srv/backup-*.sh"),
        (
            "/opt/app/releases/20261125010101/bin/run.py",
            "/opt/app/releases/*/bin/run.py",
        ),
        ("/srv/www/releases/v117/run.rb", "/srv/www/releases/*/run.rb"),
        ("/srv/agent-48213-1732500000/x", "/srv/agent-*/x"),
        // Instances.
        (
            "/var/lib/cloud/instances/i-0123456789abcdef0/scripts/part-001",
            "/var/lib/cloud/instances/i-*/scripts/part-001",
        ),
        (
            "/var/lib/amazon/ssm/i-0123456789abcdef0/document/orchestration/0d7c1a52-14a5-4c5e-9b1f-6a1d3c0f8e11/awsrunShellScript/0.awsrunShellScript/_script.sh",
            "/var/lib/amazon/ssm/i-*/document/orchestration/*/awsrunShellScript/0.awsrunShellScript/_script.sh",
        ),
        (
            "/srv/ip-10-0-0-5.eu-west-1.compute.internal/x",
            "/srv/ip-*.eu-west-1.compute.internal/x",
        ),
    ] {
        assert_eq!(path(given), expected, "{given}");
    }
}

#[test]
fn what_names_the_program_stays() {
    for given in [
        "/usr/bin/python3.11",
        "/usr/bin/python3.8",
        "/opt/app2/run.py",
        "/opt/app/run2.py",
        "/usr/lib/jvm/jdk-17/bin/java",
        "/usr/lib/jvm/java-1.8.0-openjdk-1.8.0.402.b06-2.amzn2.x86_64/jre/bin/java",
        "/usr/lib64/ld-linux-x86-64.so.2",
        "/usr/lib/x86_64-linux-gnu/libexec/x",
        "/usr/lib/aarch64-linux-gnu/x",
        "/usr/local/aws-cli/v2/2.15.30/dist/aws",
        "/opt/node-v18.17.1-linux-x64/bin/node",
        "/home/ec2-user/.pyenv/versions/3.11.4/bin/python3.11",
        "/home/ec2-user/.nvm/versions/node/v20.1.0/bin/node",
        "/opt/app/releases/current/run.py",
        "/opt/app/current/run.py",
        "/usr/share/dotnet/dotnet",
        "/srv/redis-16379/check.sh",
        "/run/user/1000/x",
        "/etc/cron.hourly/0anacron",
        "/var/lib/cloud/instance/scripts/part-001",
        "/snap/bin/aws",
        "/usr/bin/s3cmd",
        "/opt/log4j2/run",
        "/opt/ubuntu2204/x",
        "/usr/lib/git-core/git-remote-https",
        "/opt/decade/facade/defaced",
        "/opt/installAgentForLinux/setup",
        "/builds/group/project/ci.sh",
        "/tmp/deploy.sh",
        "/tmp/tmp.sh",
        "/tmp/tmp_install/run.sh",
        "/tmp/installAgent.sh",
        "/tmp/MyScriptRunner.py",
        "/tmp/python3",
        "/tmp/venv/bin/python3.11",
        "/tmp/s3upload.sh",
        "/tmp/ec2tools/run",
        "/tmp/x86_64/run",
        "/var/tmp/amazon-ssm-agent.rpm",
        "/home/alice/tmp/report.py",
        "/memfd:runc_cloned",
        "/",
        "run.py",
        "",
    ] {
        assert_eq!(path(given), given);
    }
}

#[test]
fn connections_of_socket_units_are_one_unit() {
    for (given, expected) in [
        ("sshd@7-10.0.0.5:22-10.0.0.9:51234.service", "sshd@*.service"),
        ("sshd@12-[fd00::1]:22-[fd00::2]:51234.service", "sshd@*.service"),
        ("agent@3-4711-0.service", "agent@*.service"),
        ("job-0d7c1a52-14a5-4c5e-9b1f-6a1d3c0f8e11.service", "job-*.service"),
        ("build@0d7c1a52-14a5-4c5e-9b1f-6a1d3c0f8e11.service", "build@*.service"),
        ("getty@tty1.service", "getty@tty1.service"),
        ("user@1000.service", "user@1000.service"),
        ("openvpn@eu-west-1.service", "openvpn@eu-west-1.service"),
        ("postgresql@14-main.service", "postgresql@14-main.service"),
    ] {
        assert_eq!(unit(given), expected);
    }
}

const NAMES: &str = "[a-zA-Z0-9*._@-]{0,14}|tmp|builds|releases|workspace|snap|store|nix|fd|proc|pytest-of-a|\
                     [0-9]{1,10}|[0-9a-f]{8,40}|tmp[.]?[a-z0-9_*]{4,10}|durable-[0-9a-f*]{1,9}|[0-9]{4}-[0-9]{2}-[0-9]{2}T?[0-9-]{0,8}|\
                     systemd-private-[0-9a-f]{8}-[a-z.]{1,4}-[a-zA-Z]{6}|ip-[0-9]{1,3}-[0-9]{1,3}-[0-9]{1,3}-[0-9]{1,3}";

proptest! {
    #[test]
    fn folding_again_changes_nothing(names in proptest::collection::vec(NAMES, 0..6)) {
        let given = names.join("/");
        let folded = path(&given);
        prop_assert_eq!(&path(&folded), &folded, "{}", given);
        prop_assert!(folded.len() <= given.len());
        prop_assert_eq!(folded.is_empty(), given.is_empty());
        prop_assert_eq!(folded.split('/').count(), names.len().max(1));
    }

    #[test]
    fn any_text_is_folded(given in ".{0,60}") {
        let folded = path(&given);
        prop_assert_eq!(&path(&folded), &folded);
        prop_assert!(folded.len() <= given.len());
        prop_assert_eq!(folded.is_empty(), given.is_empty());
    }
}
