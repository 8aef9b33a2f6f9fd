//! `imds-analyzer lab`: the whole tool on any Linux machine, without EC2.
//!
//! ```text
//! private network namespace                                   the host's namespace
//!   lo: 169.254.169.254/32, fd00:ec2::254/128                   analyzer, hooked at the root cgroup:
//!   embedded IMDS, port 80  <--  tour of real clients             sees the clients in every namespace
//! ```
//! It sends nothing to these addresses outside the namespace, where on EC2 the real IMDS would answer. It leaves
//! nothing behind: the namespace has no name and disappears with its last holder.
//!
//! A [`Lab`] is the namespace, a [`Server`] the IMDS in it, a [`Tour`] the clients. Tests use them too; [`Lab::routed`]
//! is only for tests.

mod imds;
mod topology;
mod tour;

pub use crate::host::namespace::NetNs;
pub use imds::{Answered, IPV4, IPV6, Options, Server, Tokens};
pub use topology::Lab;
pub use tour::{Step, StepOutcome, Tour};

/// Instructions for running commands in a lab that is kept open.
pub fn keep_message(lab: &Lab) -> String {
    let enter = format!("nsenter --net={}", lab.client.path().display());
    format!(
        "The lab runs until Ctrl-C. To send a call from another terminal, as root:\n\
         \x20 {enter} curl -s http://{IPV4}/latest/meta-data/\n\
         To open a shell in which every command reaches the lab's IMDS:\n\
         \x20 {enter} $SHELL\n"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn keep_message_holds_a_command_that_works() -> anyhow::Result<()> {
        let lab = Lab::local()?;
        let _server = Server::start(&lab.server, Options::default())?;
        let message = keep_message(&lab);
        let command = message.lines().find(|line| line.contains("curl")).unwrap_or_default();
        let output = Command::new("sh")
            .args(["-c", command])
            .env_remove("http_proxy")
            .output()?;
        assert!(String::from_utf8(output.stdout)?.starts_with("ami-id\n"), "{command}");
        Ok(())
    }
}
