//! What is done when others have ended, however they end.

use anyhow::{Context, Result};
use nix::unistd::{execvp, setsid};
use sbx::{Document, Name, sys, tool};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{copy, sink, stdin};
use std::os::unix::ffi::OsStringExt;

/// Waits for the end of standard input, a pipe: until all who could write have ended. Then becomes the command, with the
/// null device for its standard input and output. What ends others, a signal to the caller's process group or its cgroup, by
/// its terminal or by a service manager, ends neither of them.
///
/// With a name it begins a document once nothing ends it any more: what the steps behind it do will be undone.
pub fn after(name: Option<&Name>, command: Vec<OsString>) -> Result<Infallible> {
    // Also what it could hold open for those whom it waits for.
    sys::close(3, u32::MAX).context("cannot close inherited descriptors")?;
    // Who leads a process group already is in none of the caller's.
    let _ = setsid();
    sys::ignore_signals();
    // Others are waited for. Where this is forbidden, it goes without.
    let _ = sys::run_in_batch();
    let null = File::options().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
    if let Some(name) = name {
        tool::print(&Document::new(name).to_line())?;
    }
    sys::place(&null, 1)?;
    copy(&mut stdin(), &mut sink()).context("cannot read standard input")?;
    let command = command.into_iter().map(|word| CString::new(word.into_vec()));
    let command: Vec<CString> = command.collect::<Result<_, _>>().context("the command holds a NUL")?;
    let program = command.first().context("a command is missing")?;
    sys::place(&null, 0)?;
    execvp(program, &command).with_context(|| format!("cannot execute {}", program.to_string_lossy()))
}
