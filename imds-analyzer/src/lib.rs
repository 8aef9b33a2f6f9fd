//! imds-analyzer: finds the processes on a Linux host that still talk to the EC2 Instance Metadata Service without a
//! session token. The library half holds every stage, in the order data flows; `main` only parses and calls [`command::run`].

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
mod host;
pub mod http;
pub mod join;
pub mod kernel;
pub mod lab;
pub mod loss;
mod place;
pub mod process;
pub mod sanitize;
pub mod secrets;
pub mod send;
pub mod session;
pub mod settings;
pub mod sink;
