//! What is done when others have ended, however they end.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{execvp, setsid};
use sbx::sys;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{copy, sink, stdin};
use std::os::unix::ffi::OsStringExt;

/// Waits for the end of standard input, a pipe: until all who could write have ended. Then becomes the command, with the
/// null device for its standard input. What ends others, a signal to the caller's process group or its cgroup, by its
/// terminal or by a service manager, ends neither of them.
pub fn after(command: Vec<OsString>) -> Result<Infallible> {
    // Who leads a process group already is in none of the caller's.
    let _ = setsid();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None).context("cannot block signals")?;
    copy(&mut stdin(), &mut sink()).context("cannot read standard input")?;
    let command = command.into_iter().map(|word| CString::new(word.into_vec()));
    let command: Vec<CString> = command.collect::<Result<_, _>>().context("the command holds a NUL")?;
    let program = command.first().context("a command is missing")?;
    sys::place(File::open("/dev/null").context("cannot open /dev/null")?, 0)?;
    execvp(program, &command).with_context(|| format!("cannot execute {}", program.to_string_lossy()))
}
