//! Set-up, test, bench and generate tasks of the workspace.

fn main() {}
