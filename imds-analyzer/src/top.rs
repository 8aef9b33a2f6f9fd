//! `top`: a live table of callers. Records and keys go in, cells of a terminal come out; no clock, no file, no terminal.
//!
//! ```text
//! seen    records -> facts by caller       trail   what is kept of one caller beside its counts
//! state   seen, and what is shown of it    keys    bytes of a terminal -> keys -> what to do
//! rows    which callers, in which order    draw    state -> cells
//! save    state -> JSON
//! ```

pub mod draw;
pub mod keys;
mod rows;
pub mod save;
pub mod seen;
pub mod state;
pub mod trail;

pub use self::state::State;
