//! The parts that the end-to-end tests share: they see the analyzer from outside, as a process of its own.
//!
//! A test starts a [`Stage`]: the [`Analyzer`], a [`Lab`](imds_analyzer::lab::Lab) and the IMDS in it. Then it runs
//! real clients, and waits for records with a deadline. Failures panic and show what the analyzer said.
//!
//! The analyzer sees the whole machine, so tests choose the records of their own processes and ports, and most of them
//! share one analyzer, which is started for the first. A test that needs arguments, or looks at the analyzer itself or
//! at its end, starts its own.

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
mod maps;
mod namespace;
mod owner;
mod process;
mod program;
mod pty;
mod records;
mod schema;
mod service;
mod skip;
mod stage;
mod stop;
mod tricks;
mod venv;

pub use self::{
    analyzer::{Analyzer, Ended, Turn, binary},
    bpf::programs_in_the_kernel,
    cases::{Case, case, check},
    client::{
        IMDS_V4, IMDS_V6, PUT_TOKEN, connect, exchange, get, get_with_token, port, put_token, read_answer,
        read_response, set_option, write_in_pieces,
    },
    journal::Journal,
    maps::maps_of,
    namespace::{cable, cgroup2, ip, output, run, serve, sysctl},
    owner::{at_load, is_guest, is_legacy, owner, owner_of_older, patience, sees_senders, sender_hook, slowness, tap},
    process::{parent, process, quiet_wake_ups, resident, thread_statuses, wake_ups},
    program::{Output, imds_analyzer, run_to_end, wait},
    pty::{Seen, Terminal, no_terminal},
    records::{brief, briefs, of_port, verdicts},
    schema::{fits_schema, schema},
    service::{Service, curl, free_port, lab_with_imds, of_path, sample, send, until},
    skip::{Lack, lack, skipped},
    stage::{PYTHON, Stage},
    stop::StopAtEnd,
    tricks::{EXEC_TWICE, Urgent, fast_open_connect_names_the_sender, send_with, silent_peer},
    venv::Venv,
};
