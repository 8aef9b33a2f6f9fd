//! The eBPF object for kernels with a ring buffer (5.8 and later).
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For inline assembly of eBPF instructions: see `bpf/common/counters.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod bpf {
    mod common;
    mod modern;
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
