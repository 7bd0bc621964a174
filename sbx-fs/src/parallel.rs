//! Work that a few threads do together: one that works hands a part of it to one that waits for some.

use std::mem::take;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder};

/// The most threads that work at a time, however many processors there are.
const MOST: usize = 4;

/// A part of the work, and what hands on parts of it: threads wait for as long as somebody has that.
struct Part<T>(T, Sender<Part<T>>);

/// A thread that waits for a part of the work.
pub struct Idle<T>(Sender<Part<T>>);

impl<T> Idle<T> {
    pub fn give(self, part: T) {
        // It receives for as long as there is a sender.
        let _ = self.0.send(Part(part, self.0.clone()));
    }
}

/// Finds a thread that waits, if there is one.
pub type Find<'a, T> = &'a mut dyn FnMut() -> Option<Idle<T>>;

/// Does a piece of work, of which `work` may give parts to others. They are started when it first looks for one; all have
/// ended when this returns. A panic of one is passed on.
pub fn run<T: Send>(whole: T, work: impl Fn(T, Find<T>) + Sync) {
    let waiting = AtomicUsize::new(0);
    let find = |sender: &Sender<_>| {
        let claimed = waiting.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        claimed.is_ok().then(|| Idle(sender.clone()))
    };
    let (sender, receiver) = channel::<Part<T>>();
    let receiver = Mutex::new(receiver);
    let next = || {
        waiting.fetch_add(1, Relaxed);
        lock(&receiver).recv()
    };
    let help = || {
        while let Ok(Part(part, sender)) = next() {
            work(part, &mut || find(&sender));
        }
    };
    thread::scope(|scope| {
        let mut is_alone = true;
        work(whole, &mut || {
            if take(&mut is_alone) {
                let count = thread::available_parallelism().map_or(1, NonZero::get).min(MOST);
                // With fewer threads it takes longer, and that is all.
                (1..count).for_each(|_| _ = Builder::new().spawn_scoped(scope, help));
            }
            find(&sender)
        });
        drop(sender);
        help();
    });
}

/// Locks what several threads use, also after one of them has ended by a panic, which is passed on.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Whether there are others to offer work to.
    fn is_shared() -> bool {
        thread::available_parallelism().map_or(1, NonZero::get) > 1
    }

    /// Gives it to another thread, once one waits.
    fn give<T>(part: T, find: Find<T>) {
        loop {
            match find() {
                Some(idle) => return idle.give(part),
                None => thread::yield_now(),
            }
        }
    }

    #[test]
    fn every_part_is_done_once_by_whoever_waits_for_it() {
        if !is_shared() {
            return;
        }
        let done = Mutex::new(Vec::new());
        run(1000, |number: u32, find| {
            lock(&done).push((number, thread::current().id()));
            if number > 0 {
                give(number - 1, find);
            }
        });
        let done = done.into_inner().expect("no panic");
        assert_eq!(done.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (0..=1000).rev().collect::<Vec<_>>());
        let threads: HashSet<_> = done.iter().map(|(_, thread)| thread).collect();
        assert!((2..=MOST).contains(&threads.len()), "{threads:?}");
    }

    #[test]
    fn a_panic_of_another_thread_is_passed_on() {
        let works = AssertUnwindSafe(|| {
            run(1, |number: u32, find| {
                assert!(number > 0, "meant to be seen");
                give(number - 1, find);
            });
        });
        assert!(!is_shared() || catch_unwind(works).is_err());
    }
}
