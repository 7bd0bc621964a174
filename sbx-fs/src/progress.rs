//! How far a long copy is: one line on stderr, if that is a terminal, and gone when the copy is.

use anyhow::{Result, bail};
use rustix::fs::Statx;
use sbx::tree::{Node, walk};
use std::io::{self, IsTerminal, Write};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a copy goes on before anything is said of it.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the line is written anew.
const PACE: Duration = Duration::from_millis(200);

/// How many bytes take as long to copy as an entry of a directory takes beside its content, more or less.
const ENTRY: u64 = 32 << 10;

/// What this process has copied. A terminal has one line for it, whoever copies.
static BYTES: AtomicU64 = AtomicU64::new(0);
static FILES: AtomicU64 = AtomicU64::new(0);

/// Tells that a part of a file was copied.
pub fn bytes(count: u64) {
    BYTES.fetch_add(count, Relaxed);
}

/// Tells that something that is no directory was copied.
pub fn file() {
    FILES.fetch_add(1, Relaxed);
}

/// How much of a file there is to copy.
pub fn data(stat: &Statx) -> u64 {
    stat.stx_size.min(stat.stx_blocks * 512)
}

/// Does the work of copying `paths` beneath `root`, and shows how far it is.
pub fn during<T>(root: BorrowedFd, paths: &[PathBuf], work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let begin = Instant::now();
    let (working, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let mut line = Line { begin, shown: begin, ended };
                // Without a total it is shown all the same.
                let total = line.measure(root, paths).ok();
                while line.show(total, PACE) {}
            }
        });
        let done = work();
        drop(working);
        done
    })
}

struct Line {
    begin: Instant,
    shown: Instant,
    /// Closed when the work is done.
    ended: Receiver<()>,
}

impl Line {
    /// How much work there is in all. Fails when it has been done meanwhile.
    fn measure(&mut self, root: BorrowedFd, paths: &[PathBuf]) -> Result<u64> {
        let mut total = 0;
        for path in paths {
            let Some(node) = Node::beneath(root, path)? else { continue };
            walk(&node, &mut path.clone(), |node, _| {
                if !node.is_directory() {
                    total += ENTRY + data(&node.stat);
                }
                if self.shown.elapsed() >= PACE && !self.show(None, Duration::ZERO) {
                    bail!("done")
                }
                Ok(())
            })?;
        }
        Ok(total)
    }

    /// Writes the line, and waits. Erases it and returns false when the work is done.
    fn show(&mut self, total: Option<u64>, wait: Duration) -> bool {
        let (bytes, files) = (BYTES.load(Relaxed), FILES.load(Relaxed));
        let done = bytes + files * ENTRY;
        let left = total.filter(|_| done > 0).map(|total| {
            let left = self.begin.elapsed().as_secs_f64() * total.saturating_sub(done) as f64 / done as f64;
            format!(", {}:{:02} left", left as u64 / 60, left as u64 % 60)
        });
        let line = format!("\r\x1b[Ksbx-fs: {} MiB, {files} files{}", bytes >> 20, left.unwrap_or_default());
        // Nobody can be told that the terminal is gone.
        let _ = io::stderr().write_all(line.as_bytes());
        self.shown = Instant::now();
        let goes_on = self.ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
        if !goes_on {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
        goes_on
    }
}
