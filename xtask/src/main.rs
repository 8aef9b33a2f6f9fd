#[allow(dead_code, reason = "used by what comes next")]
mod toolchain;
fn main() {}
