//! Where tests run: network namespaces of a lab, and cgroups.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use imds_analyzer::lab::{Lab, NetNs, Options, Server};

/// An IMDS that serves requests without a token too.
pub fn serve(lab: &Lab) -> Server {
    Server::start(&lab.server, Options::default()).expect("IMDS")
}

/// Where the host has mounted cgroup2, if it has.
pub fn cgroup2() -> Option<&'static str> {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|root| Path::new(root).join("cgroup.procs").exists())
}

/// Sets `net.ipv4.<name>` in `namespace`.
pub fn sysctl(namespace: &NetNs, name: &str, value: &str) {
    namespace
        .run(|| fs::write(format!("/proc/sys/net/ipv4/{name}"), value))
        .expect("namespace")
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// Runs a program inside `namespace` to its end; it must succeed.
pub fn run(namespace: &NetNs, program: &str, args: &[&str]) -> Output {
    let mut command = namespace.command(program);
    command.args(args).stdin(Stdio::null());
    output(command)
}

/// Runs a command to its end; it must succeed.
pub fn output(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// Joins two namespaces by a veth pair: namespace, name of the link's end and its address for each.
pub fn cable([(near, name, address), (far, far_name, far_address)]: [(&NetNs, &str, &str); 2]) {
    let path = far.path();
    ip(
        near,
        &format!(
            "link add {name} type veth peer name {far_name} netns {}",
            path.display()
        ),
    );
    for (namespace, name, address) in [(near, name, address), (far, far_name, far_address)] {
        ip(namespace, &format!("addr add {address} dev {name}"));
        ip(namespace, &format!("link set {name} up"));
    }
}

/// Runs `ip` with these words inside `namespace`.
pub fn ip(namespace: &NetNs, words: &str) {
    run(namespace, "ip", &words.split(' ').collect::<Vec<_>>());
}
