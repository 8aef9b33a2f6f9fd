//! What the end-to-end tests share: the analyzer as a process of its own, seen from outside.
//!
//! A test starts a [`Lab`](imds_analyzer::lab::Lab), the [`Analyzer`], and real clients, then waits for records with a
//! deadline; nothing sleeps to be in time. Failures panic and show what the analyzer said.

mod analyzer;
mod client;
mod program;
mod scene;

pub use self::{
    analyzer::{Analyzer, Ended, binary},
    client::{IMDS_V4, IMDS_V6, connect, read_response, write_in_pieces},
    program::{Output, imds_analyzer, run, wait},
    scene::{PYTHON, Scene, schema},
};
