//! Which records a report is about.

use super::watched::Time;
use crate::record::Brief;

/// Conditions. A record must match one value of every kind of condition given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub since: Option<Time>,
    pub until: Option<Time>,
    /// Names of hosts or ids of instances.
    pub hosts: Vec<String>,
    pub accounts: Vec<String>,
    /// Parts of a caller's key.
    pub callers: Vec<String>,
    /// Systemd units.
    pub units: Vec<String>,
}

impl Filter {
    pub fn matches(&self, brief: &Brief<'_>, time: Time) -> bool {
        self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time < until)
            && self.matches_host(brief)
            && self.matches_caller(brief)
    }

    /// True if some hosts or callers are left out.
    pub fn is_partial(&self) -> bool {
        ![&self.hosts, &self.accounts, &self.callers, &self.units]
            .iter()
            .all(|list| list.is_empty())
    }

    fn matches_host(&self, brief: &Brief<'_>) -> bool {
        let account = brief.cloud.as_ref().and_then(|cloud| cloud.account.as_ref());
        let is_host = |host: &String| *host == *brief.host.name || host == brief.host_key();
        (self.hosts.is_empty() || self.hosts.iter().any(is_host))
            && (self.accounts.is_empty()
                || account.is_some_and(|account| self.accounts.iter().any(|it| it == account.id.as_str())))
    }

    /// Records that are about no caller tell when the host was watched, and what was lost.
    fn matches_caller(&self, brief: &Brief<'_>) -> bool {
        if self.callers.is_empty() && self.units.is_empty() {
            return true;
        }
        let Some(who) = brief.who() else {
            return !brief.is_about_caller();
        };
        let systemd = brief.systemd.as_ref();
        let units = systemd
            .into_iter()
            .flat_map(|systemd| [&systemd.unit, &systemd.user_unit])
            .flatten();
        (self.callers.is_empty() || self.callers.iter().any(|part| who.key.contains(part.as_str())))
            && (self.units.is_empty()
                || units
                    .into_iter()
                    .any(|unit| self.units.iter().any(|it| it == unit.as_str())))
    }
}
