//! The eBPF object for kernels without a ring buffer, 4.14 and later: it reads sends from the sender's memory, or
//! passes packets on. Every program is one function without loops, calls or data of its own.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For inline assembly of eBPF instructions: see `bpf/common/counters.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod bpf {
    mod common;
    mod legacy;
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
