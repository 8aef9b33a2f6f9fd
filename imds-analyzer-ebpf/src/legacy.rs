//! The eBPF object for kernels without a ring buffer, 4.14 and later: it reads sends, or passes packets on. Every program
//! is one function without loops and calls, and without data of its own.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Instructions of eBPF itself: see `bpf/common/counters.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod bpf {
    mod common;
    mod legacy;
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
