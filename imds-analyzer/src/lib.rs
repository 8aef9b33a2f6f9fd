//! Finds the processes on a Linux host that call the EC2 instance metadata service without a session token.
//!
//! The library holds every stage, in the order data flows. `main` parses the command line and calls [`command::run`].

pub mod choice;
pub mod cli;
pub mod command;
pub mod config;
pub mod console;
pub mod decode;
#[cfg(test)]
mod docs;
pub mod event;
pub mod exit_code;
#[cfg(test)]
mod golden;
mod host;
pub mod http;
pub mod identity;
pub mod join;
pub mod judge;
pub mod kernel;
pub mod lab;
pub mod legacy;
pub mod logfile;
pub mod loss;
pub mod notice;
mod place;
pub mod process;
pub mod record;
pub mod rehearse;
pub mod report;
pub mod sanitize;
pub mod secrets;
pub mod session;
pub mod settings;
pub mod sink;
pub mod summary;
pub mod top;
pub mod vocabulary;
