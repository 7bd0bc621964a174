//! What has been mounted, read back.

use super::plan::ReadOnly;
use sbx::mountinfo::Mount;
use std::collections::HashMap;
use std::path::Path;

/// A mount that is writable though it was to be read-only. How far each mount of ours must be is told by its id; one
/// that it brought along, or that came later, belongs to the nearest one of ours above it.
pub fn writable<'a>(mounts: &'a [Mount], ours: &HashMap<u64, ReadOnly>) -> Option<&'a Path> {
    let parents: HashMap<u64, u64> = mounts.iter().map(|mount| (mount.id, mount.parent)).collect();
    let demanded = |id: u64| {
        let mut above = std::iter::successors(Some(id), |id| parents.get(id).copied()).take(mounts.len() + 1);
        above.find_map(|owner| ours.get(&owner).map(|read_only| (owner, *read_only)))
    };
    let wrong = |mount: &&Mount| match demanded(mount.id) {
        Some((_, ReadOnly::Tree)) => !mount.read_only,
        Some((owner, ReadOnly::Top)) => owner == mount.id && !mount.read_only,
        _ => false,
    };
    mounts.iter().find(wrong).map(|mount| mount.point.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sbx::mountinfo;

    #[test]
    fn what_lies_below_a_read_only_tree_is_read_only_unless_the_document_says_so() {
        let mounts = |options: [&str; 5]| -> Vec<Mount> {
            let lines = [(1, 0, "/"), (2, 1, "/usr"), (3, 2, "/usr/local"), (4, 3, "/usr/local/x"), (5, 1, "/sys")];
            let line = |((id, parent, point), options)| format!("{id} {parent} 0:1 / {point} {options} - tmpfs t rw\n");
            let text: String = lines.into_iter().zip(options).map(line).collect();
            mountinfo::parse(text.as_bytes()).expect("mounts")
        };
        let ours = HashMap::from([(1, ReadOnly::No), (2, ReadOnly::Tree), (5, ReadOnly::Top)]);
        assert_eq!(writable(&mounts(["rw", "ro", "ro", "ro", "ro"]), &ours), None);
        assert_eq!(writable(&mounts(["rw", "ro", "ro", "rw", "ro"]), &ours), Some(Path::new("/usr/local/x")));
        assert_eq!(writable(&mounts(["rw", "rw", "ro", "ro", "ro"]), &ours), Some(Path::new("/usr")));
        assert_eq!(writable(&mounts(["rw", "ro", "ro", "ro", "rw"]), &ours), Some(Path::new("/sys")));
        let wanted = HashMap::from([(2, ReadOnly::Tree), (3, ReadOnly::No)]);
        assert_eq!(writable(&mounts(["rw", "ro", "rw", "rw", "rw"]), &wanted), None);
    }
}
