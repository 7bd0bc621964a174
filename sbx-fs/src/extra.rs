//! Mounts that an administrator asks for, beside those that every container has.

use anyhow::{Context, Result, ensure};
use sbx::Size;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// Where no other mount may be: what shows the kernel, and what the container's init needs as it is.
const KEPT: [&str; 4] = ["/proc", "/sys", "/dev", "/run/lock"];

/// One mount, as `TYPE:DESTINATION=SOURCE` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Extra {
    text: String,
    pub destination: PathBuf,
    source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A file or directory of the host's, with all that is mounted below it.
    Host { path: PathBuf, read_only: bool },
    /// A memory file system of so many bytes.
    Ram(Size),
}

impl FromStr for Extra {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("bad mount {text:?}: {why}");
        let (kind, rest) = text.split_once(':').ok_or_else(|| bad("TYPE:DESTINATION=SOURCE"))?;
        let (destination, source) = rest.split_once('=').ok_or_else(|| bad("TYPE:DESTINATION=SOURCE"))?;
        let plain = |path: &str| {
            let path = Path::new(path);
            let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
            (path.is_absolute() && path.components().all(is_plain)).then(|| path.components().collect::<PathBuf>())
        };
        let destination = plain(destination).filter(|path| path.parent().is_some());
        let destination = destination.ok_or_else(|| bad("the destination is an absolute path without .."))?;
        if KEPT.iter().any(|kept| destination.starts_with(kept)) && destination != Path::new("/dev/shm")
            || ["/run", "/usr"].iter().any(|kept| destination == Path::new(kept))
        {
            return Err(bad("that place is the container's or the host's own"));
        }
        let source = match kind {
            "host-bind" => {
                let (path, read_only) = source.strip_suffix(",ro").map_or((source, false), |path| (path, true));
                Source::Host {
                    path: plain(path).ok_or_else(|| bad("the source is an absolute path without .."))?,
                    read_only,
                }
            }
            "ram" => Source::Ram(source.parse()?),
            _ => return Err(bad("the types are host-bind and ram")),
        };
        Ok(Self { text: text.to_owned(), destination, source })
    }
}

impl TryFrom<String> for Extra {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Extra> for String {
    fn from(extra: Extra) -> Self {
        extra.text
    }
}

impl Extra {
    /// The memory that it may take, in bytes.
    pub fn memory(&self) -> u64 {
        match &self.source {
            Source::Ram(size) => size.0.unsigned_abs(),
            Source::Host { .. } => 0,
        }
    }

    /// As the document has it. What it comes from must be there, below `host`.
    pub fn mount(&self, host: &Path) -> Result<Value> {
        let (kind, source, options) = match &self.source {
            Source::Host { path, read_only } => {
                // A link on the way is followed now and never again: whoever can write there would lead it elsewhere.
                let place = host.join(path.strip_prefix("/").unwrap_or(path)).canonicalize();
                let place = place.with_context(|| format!("cannot mount {}", path.display()))?;
                let path = Path::new("/").join(place.strip_prefix(host.canonicalize()?)?);
                let source = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned();
                let options: &[&str] = if *read_only { &["rro", "ro"] } else { &[] };
                ("bind", source, [&["rbind", "rnosuid", "rnodev"], options].concat().join(","))
            }
            Source::Ram(size) => {
                let mode = if self.destination == Path::new("/tmp") { "1777" } else { "755" };
                (
                    "tmpfs",
                    "tmpfs".to_owned(),
                    format!("nosuid,nodev,mode={mode},size={}k", size.0.unsigned_abs().div_ceil(1024)),
                )
            }
        };
        let options: Vec<&str> = options.split(',').collect();
        let destination = self.destination.to_str();
        ensure!(destination.is_some(), "{} is not UTF-8", self.destination.display());
        Ok(json!({ "destination": destination, "type": kind, "source": source, "options": options }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_understood_or_refused() {
        let mount = |text: &str| text.parse::<Extra>().expect(text).mount("/".as_ref()).expect(text);
        assert_eq!(
            mount("host-bind:/srv/=/etc"),
            json!({ "destination": "/srv", "type": "bind", "source": "/etc", "options": ["rbind", "rnosuid", "rnodev"] })
        );
        assert_eq!(
            mount("host-bind:/var/run/x=/etc,ro")["options"],
            json!(["rbind", "rnosuid", "rnodev", "rro", "ro"])
        );
        assert_eq!(mount("ram:/tmp=1500")["options"], json!(["nosuid", "nodev", "mode=1777", "size=2k"]));
        assert_eq!(mount("ram:/srv=500M")["options"], json!(["nosuid", "nodev", "mode=755", "size=512000k"]));
        for bad in [
            "",
            "/srv=/data",
            "host-bind:/srv",
            "host-bind:srv=/data",
            "host-bind:/srv=data",
            "host-bind:/a/../b=/data",
            "host-bind:/=/data",
            "host-bind:/proc/x=/data",
            "host-bind:/sys=/data",
            "host-bind:/dev=/data",
            "host-bind:/run=/data",
            "host-bind:/usr/=/data",
            "ram:/tmp=",
            "ram:/tmp=0",
            "ram:/tmp=5x",
            "disk:/tmp=5M",
        ] {
            assert!(bad.parse::<Extra>().is_err(), "{bad}");
        }
        assert!("host-bind:/srv=/no/such".parse::<Extra>().expect("a mount").mount("/".as_ref()).is_err());
    }
}
