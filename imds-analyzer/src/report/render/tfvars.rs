//! Variables for Terraform: accounts and instances still using IMDSv1, and those for which tokens can be required.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use serde::Serialize;

use super::{account_id, instance_id};
use crate::report::{Host, Report, verdict::Verdict};

#[derive(Serialize)]
struct Variables<'a> {
    accounts_using_imdsv1: BTreeSet<&'a str>,
    instances_using_imdsv1: BTreeSet<&'a str>,
    /// Nothing was seen of them that speaks against it, but not everything was seen.
    instances_unproven: BTreeSet<&'a str>,
    instances_ready: BTreeSet<&'a str>,
}

pub(super) fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let instances = |verdict: Verdict| {
        let hosts = report
            .hosts
            .iter()
            .filter(move |host| host.verdict.known() == Some(verdict));
        hosts
            .filter_map(|host| instance_id(host.instance.as_deref()?))
            .collect()
    };
    let uses_v1 = |host: &&Host| host.verdict.known() == Some(Verdict::NotReady);
    let accounts = report
        .hosts
        .iter()
        .filter(uses_v1)
        .filter_map(|host| account_id(host.account.as_deref()?));
    let variables = Variables {
        accounts_using_imdsv1: accounts.collect(),
        instances_using_imdsv1: instances(Verdict::NotReady),
        instances_unproven: instances(Verdict::Unproven),
        instances_ready: instances(Verdict::Ready),
    };
    serde_json::to_writer_pretty(&mut *out, &variables)?;
    out.write_all(b"\n")
}
