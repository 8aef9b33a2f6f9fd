//! What the end-to-end tests share: the analyzer as a process of its own, seen from outside.
//!
//! A test starts a [`Scene`]: the [`Analyzer`], a [`Lab`](imds_analyzer::lab::Lab) and the IMDS in it. Then come real
//! clients, then it waits for records with a deadline; nothing sleeps to be in time. Failures panic and show what the
//! analyzer said.
//!
//! A [`Stage`] is the same for programs: its calls have a path of their own, by which its records are found.
//!
//! The analyzer sees the whole machine: tests choose the records of their own processes and ports. So most of them can share
//! one, which is started for the first of them; a test that has arguments, looks at the analyzer itself or at its end has its
//! own.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by it; figures and reasons are for whoever reads the log"
)]

mod analyzer;
mod bpf;
mod cases;
mod client;
mod journal;
mod owner;
mod process;
mod program;
mod records;
mod scene;
mod schema;
mod service;
mod skip;
mod stage;
mod stop;
mod tricks;

pub use self::{
    analyzer::{Analyzer, Ended, Turn, binary},
    bpf::programs_in_the_kernel,
    cases::{Case, case, check},
    client::{
        IMDS_V4, IMDS_V6, PUT_TOKEN, connect, exchange, get, get_with_token, port, put_token, read_answer,
        read_response, set_option, write_in_pieces,
    },
    journal::Journal,
    owner::{at_load, is_legacy, owner, owner_of_older, sees_senders, sender_hook, tap},
    process::{parent, process, quiet_wake_ups, resident, thread_statuses, wake_ups},
    program::{Output, imds_analyzer, run_to_end, wait},
    records::{brief, briefs, of_port, verdicts},
    scene::{Scene, output, run, serve, sysctl},
    schema::{fits_schema, schema},
    service::{Service, curl, free_port, lab_with_imds, of_path, sample, send, until},
    skip::{Lack, lack, skipped},
    stage::{PYTHON, Stage},
    stop::StopAtEnd,
    tricks::{EXEC_TWICE, Urgent, fast_open_connect_names_the_sender, send_with, silent_peer},
};
