//! What a step may write, where the kernel has Landlock (landlock(7), Linux 5.13): should a tree that somebody else
//! has filled ever lead a copy out of it, nothing is written there.

use anyhow::{Context, Result};
use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
};
use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::thread;

/// The last one that knows another access to files (Linux 6.10).
const NEWEST: ABI = ABI::V5;

/// Does a piece of work that can make, write, truncate, link, rename and remove files beneath these directories alone.
/// It can read everything, and use what is open already. Owners, modes, times and attributes are not Landlock's.
///
/// A thread never gets back what it has given up. So the work has a thread of its own, and what comes after it can still
/// mount and enter namespaces, which Landlock would forbid. Before Linux 5.19 nothing is restricted: no file could
/// be moved from one directory to another.
pub fn writing_only_below<T: Send>(places: &[BorrowedFd], work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let restricted = || {
        restrict(places).context("cannot restrict what is written")?;
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, restricted).context("cannot make a thread")?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Restricts this thread.
fn restrict(places: &[BorrowedFd]) -> Result<(), RulesetError> {
    let all = AccessFs::from_write(NEWEST);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .create()?;
    ruleset
        .add_rules(places.iter().map(|place| Ok::<_, RulesetError>(PathBeneath::new(place, all))))?
        .restrict_self()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::truncate;
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::path::Path;

    /// Whether this kernel restricts anything.
    fn has_landlock() -> bool {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::Refer);
        let has = ruleset.and_then(Ruleset::create).is_ok();
        if !has {
            assert!(std::env::var_os("SBX_MUST_WORK").is_none(), "needs Landlock");
            eprintln!("skipped: needs Landlock");
        }
        has
    }

    #[test]
    fn a_work_writes_below_its_places_and_nowhere_else() {
        if !has_landlock() {
            return;
        }
        let scratch = std::env::temp_dir().join(format!("sbx-landlock-{}", std::process::id()));
        let [inside, outside] = ["inside", "outside"].map(|name| scratch.join(name));
        fs::create_dir_all(inside.join("deep")).expect("a directory");
        fs::create_dir_all(&outside).expect("a directory");
        for file in [inside.join("file"), outside.join("file")] {
            fs::write(file, "kept").expect("a file");
        }
        let place = File::open(&inside).expect("a directory");
        let open = File::create(outside.join("open")).expect("a file");

        let out = |name: &str| outside.join(name);
        let attacks: [(&str, &(dyn Fn() -> anyhow::Result<()> + Sync)); 8] = [
            ("open", &|| Ok(File::options().write(true).open(out("file")).map(drop)?)),
            ("truncate", &|| Ok(truncate(&out("file"), 1)?)),
            ("create", &|| Ok(fs::write(out("created"), "")?)),
            ("mkdir", &|| Ok(fs::create_dir(out("made"))?)),
            ("symlink", &|| Ok(std::os::unix::fs::symlink("/", out("symlink"))?)),
            ("link", &|| Ok(fs::hard_link(inside.join("file"), out("linked"))?)),
            ("rename", &|| Ok(fs::rename(inside.join("file"), out("renamed"))?)),
            ("unlink", &|| Ok(fs::remove_file(out("file"))?)),
        ];
        let work = |at: &Path| -> anyhow::Result<()> {
            fs::write(at.join("deep/new"), "new")?;
            fs::rename(at.join("deep/new"), at.join("moved"))?;
            fs::hard_link(at.join("moved"), at.join("deep/again"))?;
            Ok(fs::remove_file(at.join("moved"))?)
        };
        let worked = writing_only_below(&[place.as_fd()], || {
            work(&inside)?;
            for (what, attack) in attacks {
                assert!(attack().is_err(), "{what}");
            }
            (&open).write_all(b"x")?;
            Ok(fs::read_to_string(out("file"))?)
        });
        assert_eq!(worked.expect("worked"), "kept");
        // None of them failed by itself, and this thread is not restricted.
        for (what, attack) in attacks {
            attack().expect(what);
        }
        fs::remove_dir_all(&scratch).expect("the scratch directory");
    }
}
