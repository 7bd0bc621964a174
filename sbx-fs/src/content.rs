//! What files hold, copied in the quickest way that the file systems know.

use crate::parallel::lock;
use crate::progress;
use rustix::fs::{SeekFrom, Statx, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, pread};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

/// What a file is read and written by where the kernel cannot copy it itself.
const BLOCK: usize = 128 << 10;

/// What the kernel is asked to copy at a time, so that there is something to tell of a large file.
const CHUNK: usize = 64 << 20;

/// The first part of a file from `offset` on, up to `size`, that is no hole: where it begins and ends.
pub fn data_from(file: &File, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if offset >= size {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(offset)) {
        // A hole up to the end.
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(_) => Ok(Some((offset, size))),
        Ok(start) if start >= size => Ok(None),
        Ok(start) => Ok(Some((start, seek(file, SeekFrom::Hole(start))?.min(size)))),
    }
}

/// Copies what files hold.
#[derive(Default)]
pub struct Content {
    /// A device whose blocks cannot be shared with the target's.
    unshared: Mutex<Option<(u32, u32)>>,
}

impl Content {
    /// Copies what a file holds, and leaves its holes: by sharing the blocks where the file system can, else in the
    /// kernel, else by reading and writing, which is quickest where it takes but one call of each.
    pub fn copy(&self, from: &File, to: &File, stat: &Statx) -> io::Result<()> {
        let size = stat.stx_size;
        if size == 0 || self.shares(from, to, stat) {
            return Ok(());
        }
        // What has fewer blocks than it needs has holes, or is kept in a way of the file system's own.
        if stat.stx_blocks * 512 >= size {
            return if size <= BLOCK as u64 { through(from, to, 0, size) } else { range(from, to, 0, size) };
        }
        let mut offset = 0;
        while let Some((start, end)) = data_from(from, offset, size)? {
            range(from, to, start, end)?;
            offset = end;
        }
        Ok(ftruncate(to, size)?)
    }

    /// Shares the blocks of a file, if that can be.
    fn shares(&self, from: &File, to: &File, stat: &Statx) -> bool {
        let device = Some((stat.stx_dev_major, stat.stx_dev_minor));
        if *lock(&self.unshared) == device {
            return false;
        }
        match ioctl_ficlone(to, from) {
            Ok(()) => {
                progress::bytes(progress::data(stat));
                return true;
            }
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY) => *lock(&self.unshared) = device,
            // Not this file: on btrfs one that is copied on write and one that is not, for example.
            Err(_) => {}
        }
        false
    }
}

fn range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let rest = CHUNK.min((end - read) as usize);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), rest) {
            Err(Errno::INTR) => {}
            // The end; or not between these two file systems, in which case the error of what follows counts. Some
            // file systems report an end that is none.
            Ok(0) | Err(_) => break,
            Ok(count) => progress::bytes(count as u64),
        }
    }
    through(from, to, read, end)
}

/// By way of our own memory.
fn through(from: &File, to: &File, mut start: u64, end: u64) -> io::Result<()> {
    let mut block = [MaybeUninit::uninit(); BLOCK];
    while start < end {
        let count = BLOCK.min((end - start) as usize);
        let (read, _) = pread(from, &mut block[..count], start)?;
        if read.is_empty() {
            break;
        }
        to.write_all_at(read, start)?;
        progress::bytes(read.len() as u64);
        start += read.len() as u64;
    }
    Ok(())
}
