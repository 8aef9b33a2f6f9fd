//! Signs that a call is risky.

use imds_analyzer_ebpf::classify::{PathClass, Verdict};

use super::last_name;
use crate::event::{Ancestor, Answer, Event, Process, Risk};

/// Beginnings of names of web and application servers.
const SERVERS: [&str; 26] = [
    "apache2",
    "caddy",
    "catalina",
    "daphne",
    "envoy",
    "gunicorn",
    "haproxy",
    "httpd",
    "hypercorn",
    "jetty",
    "lighttpd",
    "nginx",
    "passenger",
    "php-cgi",
    "php-fpm",
    "puma",
    "squid",
    "thin",
    "tomcat",
    "traefik",
    "unicorn",
    "uvicorn",
    "uwsgi",
    "varnishd",
    "waitress",
    "wildfly",
];

/// The risks of a call.
pub(super) fn of(event: &Event, is_new: bool, has_foreign_header: bool) -> Vec<Risk> {
    let is_credential = event.path_class == PathClass::Credential;
    let is_sensitive = is_credential || event.path_class == PathClass::UserData;
    let signs = [
        (
            Risk::CredentialV1,
            is_credential && event.verdict == Verdict::V1 && may_have_succeeded(event.answer),
        ),
        (Risk::Forwarded, event.forwarded),
        (
            Risk::ServerChild,
            is_sensitive && event.process.as_deref().is_some_and(is_of_server),
        ),
        (Risk::NewCaller, is_new),
        (
            Risk::OtherCloudHeader,
            has_foreign_header && event.path_class != PathClass::NotImds,
        ),
    ];
    signs.into_iter().filter_map(|(risk, is)| is.then_some(risk)).collect()
}

fn may_have_succeeded(answer: Answer) -> bool {
    match answer {
        Answer::Answered(reply) => reply.is_success(),
        Answer::None => false,
        Answer::Unseen => true,
    }
}

/// True for a server and for any process below one.
fn is_of_server(process: &Process) -> bool {
    let own = [process.name.as_str(), last_name(&process.program)];
    let ancestors = process.ancestors.iter().flat_map(names);
    own.into_iter().chain(ancestors).any(is_server)
}

fn names(ancestor: &Ancestor) -> impl Iterator<Item = &str> {
    let executable = ancestor.executable.as_deref().map(last_name);
    [Some(ancestor.name.as_str()), executable].into_iter().flatten()
}

fn is_server(name: &str) -> bool {
    SERVERS.iter().any(|server| name.starts_with(server))
}
