//! imds-analyzer: finds the processes on a Linux host that still talk to the EC2 Instance Metadata Service without a
//! session token. The library half holds every stage, in the order data flows; `main` only parses and calls [`run`].

pub mod check;
pub mod cli;
pub mod config;
mod daemon;
pub mod decode;
pub mod event;
pub mod http;
pub mod join;
pub mod kernel;
pub mod lab;
mod lab_command;
mod place;
pub mod process;
pub mod run;
pub mod sanitize;
pub mod secrets;
pub mod send;
pub mod session;
pub mod settings;
pub mod sink;
