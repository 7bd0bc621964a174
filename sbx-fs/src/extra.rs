//! Mounts that an administrator asks for, beside those that every container has.

use anyhow::{Context, Result};
use sbx::{Size, passwd};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// Where no other mount may be: what shows the kernel, and what the container's init needs as it is.
const KEPT: [&str; 4] = ["/proc", "/sys", "/dev", "/run/lock"];

/// The option of a mount that is the file system in a file (mount(8)).
pub const LOOP: &str = "loop";

/// The option of a bind of what is inside: none of the kernel's, nor of other runtimes.
pub const INSIDE: &str = "x-sbx.inside";

/// The option of a bind whose files are nobody's inside.
pub const NOBODY: &str = "x-sbx.nobody";

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
    Host { path: PathBuf, read_only: bool, nobodys: bool },
    /// The file system in an image file of the host's.
    Image { path: PathBuf, read_only: bool },
    /// A file or directory of the container's own.
    Guest { path: PathBuf, read_only: bool },
    /// A memory file system of so many bytes, or of as many as fit, for all or for one user and group.
    Ram { size: Option<Size>, owner: Option<(u32, u32)> },
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
        let raw = if kind == "host-image" { source.replacen(",format=raw", "", 1) } else { source.to_owned() };
        let (raw, nobodys) = match raw.strip_suffix(",nobody") {
            Some(rest) if kind == "host-bind" => (rest, true),
            _ => (&*raw, false),
        };
        let (path, read_only) = raw.strip_suffix(",ro").map_or((raw, false), |path| (path, true));
        let path = || plain(path).ok_or_else(|| bad("the source is an absolute path without .."));
        let source = match kind {
            "host-bind" => Source::Host { path: path()?, read_only, nobodys },
            "host-image" => Source::Image { path: path()?, read_only },
            "guest-bind" => Source::Guest { path: path()?, read_only },
            "ram" => ram(source).ok_or_else(|| bad("a SIZE in bytes, or with K, M, G, or auto[,uid=UID,gid=GID]"))?,
            _ => return Err(bad("the types are host-bind, host-image, guest-bind and ram")),
        };
        Ok(Self { text: text.to_owned(), destination, source })
    }
}

/// What is asked for of a memory file system.
fn ram(text: &str) -> Option<Source> {
    let mut parts = text.split(',');
    let size = parts.next()?;
    let size = if size == "auto" { None } else { Some(size.parse().ok()?) };
    let mut id = |key: &str| parts.next().map(|part| part.strip_prefix(key).and_then(passwd::id));
    let owner = match (id("uid="), id("gid=")) {
        (None, None) => None,
        (uid, gid) => Some((uid??, gid??)),
    };
    parts.next().is_none().then_some(Source::Ram { size, owner })
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

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Extra {
    /// Whether it shows nothing that is anywhere else.
    pub fn is_memory(&self) -> bool {
        matches!(self.source, Source::Ram { .. })
    }

    /// The file or directory of the host's that it binds.
    pub fn of_the_host(&self) -> Option<&Path> {
        match &self.source {
            Source::Host { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Whether its files are nobody's inside.
    pub fn is_nobodys(&self) -> bool {
        matches!(self.source, Source::Host { nobodys: true, .. })
    }

    /// Whether it is a memory file system of as many bytes as fit.
    pub fn fits(&self) -> bool {
        matches!(self.source, Source::Ram { size: None, .. })
    }

    /// The memory that it asks for, in bytes.
    pub fn memory(&self) -> u64 {
        match &self.source {
            Source::Ram { size: Some(size), .. } => size.0.unsigned_abs(),
            _ => 0,
        }
    }

    /// As the document has it. What it comes from must be there, below `host`; what is to fit has so many KiB.
    pub fn mount(&self, host: &Path, fitting: Option<u64>) -> Result<Value> {
        let (kind, source, mut options) = match &self.source {
            Source::Host { path, .. } => ("bind", on_host(path, host)?, vec!["rbind", "rnosuid", "rnodev"]),
            Source::Image { path, .. } => ("auto", on_host(path, host)?, vec![LOOP, "nosuid", "nodev"]),
            Source::Guest { path, .. } => ("bind", path.clone(), vec!["bind", INSIDE]),
            Source::Ram { .. } => ("tmpfs", "tmpfs".into(), vec!["nosuid", "nodev"]),
        };
        if let Source::Host { nobodys: true, .. } = &self.source {
            options.push(NOBODY);
        }
        match &self.source {
            Source::Host { read_only: true, .. } => options.extend(["rro", "ro"]),
            Source::Image { read_only: true, .. } | Source::Guest { read_only: true, .. } => options.push("ro"),
            _ => {}
        }
        let mut options: Vec<String> = options.into_iter().map(str::to_owned).collect();
        if let Source::Ram { size, owner } = &self.source {
            let is_for_all = ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|path| self.destination == Path::new(path));
            let mode = if owner.is_some() {
                "700"
            } else if is_for_all {
                "1777"
            } else {
                "755"
            };
            let size = size.map_or(fitting, |size| Some(size.0.unsigned_abs().div_ceil(1024)));
            options.extend([format!("mode={mode}"), format!("size={}k", size.context("it fits nowhere")?)]);
            options.extend(owner.iter().flat_map(|(uid, gid)| [format!("uid={uid}"), format!("gid={gid}")]));
        }
        let text = |path: &Path| path.to_str().map(str::to_owned).with_context(|| format!("{path:?} is not UTF-8"));
        let (destination, source) = (text(&self.destination)?, text(&source)?);
        Ok(json!({ "destination": destination, "type": kind, "source": source, "options": options }))
    }
}

/// A path of the host's as it is now. A link on the way is followed and never again: whoever can write there would lead
/// it elsewhere. No link leads to `host` itself.
fn on_host(path: &Path, host: &Path) -> Result<PathBuf> {
    let place = host.join(path.strip_prefix("/").unwrap_or(path)).canonicalize();
    let place = place.with_context(|| format!("cannot mount {}", path.display()))?;
    Ok(Path::new("/").join(place.strip_prefix(host)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_understood_or_refused() {
        let mount = |text: &str| text.parse::<Extra>().expect(text).mount("/".as_ref(), Some(64)).expect(text);
        assert_eq!(
            mount("host-bind:/srv/=/etc"),
            json!({ "destination": "/srv", "type": "bind", "source": "/etc", "options": ["rbind", "rnosuid", "rnodev"] })
        );
        assert_eq!(
            mount("host-bind:/var/run/x=/etc,ro")["options"],
            json!(["rbind", "rnosuid", "rnodev", "rro", "ro"])
        );
        assert_eq!(
            mount("host-bind:/srv=/etc,ro,nobody")["options"],
            json!(["rbind", "rnosuid", "rnodev", "x-sbx.nobody", "rro", "ro"])
        );
        assert_eq!(mount("ram:/tmp=1500")["options"], json!(["nosuid", "nodev", "mode=1777", "size=2k"]));
        assert_eq!(
            mount("host-image:/srv=/etc/passwd,format=raw,ro"),
            json!({ "destination": "/srv", "type": "auto", "source": "/etc/passwd",
                "options": ["loop", "nosuid", "nodev", "ro"] })
        );
        assert_eq!(
            mount("guest-bind:/srv=/no/such"),
            json!({ "destination": "/srv", "type": "bind", "source": "/no/such", "options": ["bind", "x-sbx.inside"] })
        );
        assert_eq!(mount("ram:/srv=500M")["options"], json!(["nosuid", "nodev", "mode=755", "size=512000k"]));
        assert_eq!(
            mount("ram:/home/a=auto,uid=1000,gid=100")["options"],
            json!(["nosuid", "nodev", "mode=700", "size=64k", "uid=1000", "gid=100"])
        );
        for bad in [
            "",
            "ram:/srv=5M,uid=0",
            "ram:/srv=5M,uid=0,gid=x",
            "ram:/srv=5M,gid=0,uid=0",
            "ram:/srv=5M,uid=0,gid=0,",
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
            "host-image:/srv=a.img",
            "guest-bind:/srv=../x",
        ] {
            assert!(bad.parse::<Extra>().is_err(), "{bad}");
        }
        assert!("host-bind:/srv=/no/such".parse::<Extra>().expect("a mount").mount("/".as_ref(), None).is_err());
    }
}
