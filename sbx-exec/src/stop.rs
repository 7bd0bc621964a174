//! The end of a container.

use crate::Running;
use crate::signal::Signal;
use anyhow::{Result, anyhow, bail};
use nix::libc;
use sbx::tool;
use std::time::Duration;

/// How long the kernel may take to end a killed container.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends the stop signal to the container's first process and waits until all of it has ended; kills it when that
/// takes longer than `timeout`.
pub fn stop(running: &Running, timeout: Duration) -> Result<()> {
    let Running { doc, holder } = running;
    let signal: Option<String> = doc.read("sbx.unit.stopSignal")?;
    let signal = signal.map_or(Ok(Signal::TERM), |text| text.parse::<Signal>());
    let signal = signal.map_err(|error| anyhow!("sbx.unit.stopSignal: {error}"))?;
    holder.signal(signal.0)?;
    if holder.wait(Some(timeout))? {
        return Ok(());
    }
    let name = doc.name()?;
    tool::note("sbx-exec", &format!("{name} has not stopped in {} s: killing it", timeout.as_secs()));
    holder.signal(libc::SIGKILL)?;
    if !holder.wait(Some(KILL_TIMEOUT))? {
        bail!("process {} of {name} does not end", holder.pid);
    }
    Ok(())
}
