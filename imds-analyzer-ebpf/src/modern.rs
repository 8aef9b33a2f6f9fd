#![cfg_attr(target_arch = "bpf", no_std, no_main)]
//! The eBPF object for kernels with a ring buffer (5.8 and later).

#[cfg(not(target_arch = "bpf"))]
fn main() {}
