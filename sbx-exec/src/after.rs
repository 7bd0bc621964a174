//! What is done when others have ended, however they end.

use anyhow::{Context, Result};
use nix::unistd::setsid;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{copy, sink, stdin};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Waits for the end of standard input, a pipe: until all who could write have ended. Then becomes the command, with the
/// null device for its standard input. What is sent to the caller's process group, or by its terminal, does not reach it.
pub fn after(command: &[OsString]) -> Result<Infallible> {
    // Who leads a process group already is in none of the caller's.
    let _ = setsid();
    copy(&mut stdin(), &mut sink()).context("cannot read standard input")?;
    let (program, arguments) = command.split_first().context("a command is missing")?;
    let error = Command::new(program).args(arguments).stdin(Stdio::null()).exec();
    Err(error).with_context(|| format!("cannot execute {}", program.display()))
}
