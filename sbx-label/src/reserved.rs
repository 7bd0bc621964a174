//! Levels that are in use, though nobody has claimed them here: those of all processes, and of the containers and
//! virtual machines of other runtimes, also while they do not run. None of them has a registry that others can ask or
//! lock, so each is read where it writes its labels down.

use crate::level::Level;
use anyhow::{Context, Result};
use sbx::store::entries;
use std::collections::HashSet;
use std::fs;

/// Where other runtimes write down their labels: directories, and the file in each entry where it is not the entry.
const RECORDS: [(&str, Option<&str>); 5] = [
    // Podman, CRI-O and Buildah; the second has containers of `--rm`.
    ("/var/lib/containers/storage/overlay-containers", None),
    ("/run/containers/storage/overlay-containers", None),
    ("/var/lib/docker/containers", Some("config.v2.json")),
    // Static labels. libvirt takes a dynamic one back from the files when the domain ends.
    ("/etc/libvirt/lxc", None),
    ("/etc/libvirt/qemu", None),
];

/// All such levels.
pub fn levels() -> Result<HashSet<Level>> {
    let mut levels = HashSet::new();
    for process in entries("/proc".as_ref())? {
        // One that has ended has no level any more, and what is no process has none.
        let label = fs::read(process.join("attr/current")).unwrap_or_default();
        levels.extend(of_text(&String::from_utf8_lossy(&label)));
    }
    for (directory, file) in RECORDS {
        for entry in entries(directory.as_ref())? {
            let path = file.map_or_else(|| entry.clone(), |file| entry.join(file));
            if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                levels.extend(of_text(&String::from_utf8_lossy(&text)));
            }
        }
    }
    Ok(levels)
}

/// Every pair of categories that stands in a text, in whatever format.
fn of_text(text: &str) -> impl Iterator<Item = Level> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != ',' && c != '.');
    words.filter_map(|word| word.trim_matches(',').parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_found_in_whatever_it_is_written() {
        let level = |text: &str| text.parse::<Level>().expect(text);
        for text in [
            "system_u:system_r:svirt_t:s0:c5,c7\0",
            r#"[{"id":"x","mountlabel":"system_u:object_r:container_file_t:s0:c5,c7","flags":{}}]"#,
            "<seclabel type='static'><label>system_u:system_r:svirt_t:s0:c5,c7</label></seclabel>",
        ] {
            assert_eq!(of_text(text).collect::<Vec<_>>(), [level("c5,c7")], "{text}");
        }
        let none = [
            "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023",
            "s0:c5",
            "s0:c1,c2.c9",
            "docker-default (enforce)",
            "",
        ];
        assert_eq!(none.into_iter().flat_map(of_text).count(), 0);
    }
}
