//! The eBPF object for kernels without a ring buffer, 4.14 and later: the send tap. Every program is one function
//! without loops and calls, and without data of its own.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
#[path = "bpf/legacy.rs"]
mod bpf;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
