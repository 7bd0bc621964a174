//! What the document says of the file system.

use crate::extra::Extra;
use crate::host::{Host, shared};
use anyhow::{Context, Result, bail, ensure};
use nix::sched::CloneFlags;
use sbx::rootless::Maps;
use sbx::storage::{self, Storage};
use sbx::{Document, namespace};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The size of a tmpfs in KiB: what it gets, and what it must have at the least. All have one: a tmpfs without grows
/// up to half of the host's memory, and is charged to the container, whose PID 1 then dies by the memory limit.
struct Size {
    most: u64,
    least: u64,
}

/// The largest page of the architectures that we run on, in KiB. Every least size is a multiple of it.
const PAGE: u64 = 64;

/// One mount of every container, in the order of mounting.
struct Mount {
    destination: &'static str,
    kind: &'static str,
    options: &'static [&'static str],
    size: Option<Size>,
}

const MOUNTS: [Mount; 10] = [
    mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
    // Not nodev, and not noexec, which would forbid to map /dev/zero executable: other runtimes make the nodes in it.
    tmpfs("/dev", &["nosuid", "strictatime", "mode=755"], 64, 64),
    mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
    tmpfs("/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777"], 64 << 10, 1 << 10),
    mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime"]),
    tmpfs("/run", &["nosuid", "nodev", "mode=755"], 64 << 10, 1 << 10),
    tmpfs("/run/lock", &["nosuid", "noexec", "nodev", "mode=1777"], 5 << 10, 1 << 10),
    tmpfs("/tmp", &["nosuid", "nodev", "mode=1777"], 256 << 10, 1 << 10),
];

const fn mount(destination: &'static str, kind: &'static str, options: &'static [&'static str]) -> Mount {
    Mount { destination, kind, options, size: None }
}

const fn tmpfs(destination: &'static str, options: &'static [&'static str], most: u64, least: u64) -> Mount {
    Mount { destination, kind: "tmpfs", options, size: Some(Size { most, least }) }
}

/// The group that may write to each other's terminals (tty of group(5)).
const TERMINALS: u32 = 5;

/// How a tree of the host is shared. Private, because a mount that propagated in later would be writable.
const SHARED: [&str; 5] = ["rbind", "rro", "ro", "rnodev", "rprivate"];

/// What the container must not read: the host's hardware, memory, keys and power (CVE-2018-10892, CVE-2020-8694). The
/// union of what Docker, Podman and systemd-nspawn mask, and what the kernel shows to uid 0 without a capability: the
/// state and addresses of its memory, and switches of its debugging.
const MASKED: [&str; 21] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/dynamic_debug",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/pagetypeinfo",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// What root inside could otherwise change for the whole host (CVE-2015-3630). The union likewise.
const READ_ONLY: [&str; 6] = ["/proc/apm", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Fills in the directory that the container's root is made from, instead of the host's.
pub fn base(doc: &mut Document, directory: &Path) -> Result<()> {
    let failed = || format!("cannot take {} for a root", directory.display());
    let base = directory.canonicalize().with_context(failed)?;
    ensure!(base.is_dir(), "{}: it is no directory", failed());
    ensure!(base.parent().is_some(), "{}: it is the host's", failed());
    let text = base.to_str().with_context(|| format!("{} is not UTF-8", base.display()))?;
    doc.set("sbx.base", text)
}

/// What a layout is asked for.
#[derive(Debug, Default)]
pub struct Wish {
    /// Mounts, beside those that every container has.
    pub mounts: Vec<Extra>,
    /// What the private tree is kept in.
    pub store: Option<Storage>,
    /// The directory that it is kept in, elsewhere than in the store.
    pub path: Option<PathBuf>,
}

/// Fills in what the tree is kept in: of a tree that there is, only an image can change, and only grow.
fn store(doc: &mut Document, wanted: Storage, has_tree: bool) -> Result<()> {
    match (Storage::of(doc)?, wanted) {
        (now, wanted) if !has_tree || now == wanted => {}
        (Storage::Image { size: now }, Storage::Image { size }) if now < size => {}
        (Storage::Image { size }, Storage::Image { .. }) => bail!("sbx.store: an image of {size} bytes only grows"),
        _ => bail!("sbx.store: what a tree is kept in cannot be changed"),
    }
    if wanted != Storage::of(doc)? {
        doc.set("sbx.store", json!(wanted))?;
    }
    Ok(())
}

/// Fills in where the private tree is kept, and what in.
pub fn keep(doc: &mut Document, wish: &Wish, has_tree: bool) -> Result<()> {
    if let Some(wanted) = wish.store {
        store(doc, wanted, has_tree)?;
    }
    if let Some(path) = &wish.path {
        let place = sbx::store::elsewhere(path)?;
        doc.set("sbx.path", place.to_str().with_context(|| format!("{} is not UTF-8", place.display()))?)?;
    }
    let tree = sbx::store::tree(&doc.name()?);
    doc.set("root.path", tree.to_str().with_context(|| format!("{} is not UTF-8", tree.display()))?)
}

/// Fills in root, mounts, and the masked and read-only paths. Mounts of other destinations stay, after ours; those that
/// are wished for, now or by an earlier layout, come last, and may take the place of one of our memory file systems.
pub fn layout(doc: &mut Document, wish: Wish, host: &Host) -> Result<()> {
    let has_tree = doc.get("sbx.clone").is_some();
    keep(doc, &wish, has_tree)?;
    storage::check_ids(doc)?;
    let mut extras: Vec<Extra> = doc.read("sbx.mounts")?.unwrap_or_default();
    for wish in wish.mounts {
        extras.retain(|extra| extra.destination != wish.destination);
        extras.push(wish);
    }
    let (mut mounts, sizes) = file_systems(doc, &extras)?;
    let mut sizes = sizes.into_iter();
    // A root of its own has programs of its own, unless it is made of memory.
    let is_memory = Storage::of(doc)? == Storage::Memory;
    let base: Option<PathBuf> = doc.read("sbx.base")?;
    if is_memory || base.is_none() {
        for path in shared(&host.programs(base.as_deref())?) {
            mounts.push(shared_mount(&path, base.as_deref()));
        }
    }
    let foreign = doc.read::<Vec<Value>>("mounts")?.unwrap_or_default();
    let wished = extras.iter().map(|extra| extra.destination.clone());
    let ours: Vec<PathBuf> = mounts.iter().filter_map(destination).chain(wished).collect();
    mounts.extend(foreign.into_iter().filter(|mount| destination(mount).is_none_or(|path| !ours.contains(&path))));

    for extra in &extras {
        let size = if extra.fits() { sizes.next() } else { None };
        mounts.push(extra.mount(&host.root, size)?);
    }

    let masked: Vec<String> = MASKED.into_iter().map(str::to_owned).chain(host.throttles.iter().cloned()).collect();
    if is_memory {
        // Nothing is kept of it, so nothing is to be written but where something else is mounted.
        doc.set("root.readonly", true)?;
    }
    if !extras.is_empty() {
        doc.set("sbx.mounts", json!(extras))?;
    }
    doc.set("mounts", mounts)?;
    doc.set("linux.maskedPaths", masked)?;
    doc.set("linux.readonlyPaths", json!(READ_ONLY))
}

/// A tree of the host's, or of another root's, at the same place inside.
fn shared_mount(path: &str, root: Option<&Path>) -> Value {
    let source = format!("{}{path}", root.map(Path::to_string_lossy).unwrap_or_default());
    json!({ "destination": path, "type": "bind", "source": source, "options": SHARED })
}

/// What a container of this wish has mounts of, as far as it is there yet: directories and files of the host's.
pub fn sources(wish: &Wish, host: &Host) -> Result<Vec<PathBuf>> {
    // What is yet to be made will be on the file system of what it is made in.
    let kept = wish.path.clone().unwrap_or_else(sbx::store::state_dir);
    let kept = kept.ancestors().find(|path| path.exists()).map(Path::to_owned);
    let binds = wish.mounts.iter().filter_map(Extra::of_the_host).filter(|path| path.exists());
    Ok(shared(&host.programs(None)?).map(PathBuf::from).chain(kept).chain(binds.map(Path::to_owned)).collect())
}

fn destination(mount: &Value) -> Option<PathBuf> {
    // Paths compare by component: a slash at the end does not make another destination.
    mount.get("destination")?.as_str().map(PathBuf::from)
}

/// What a memory file system gets that is as large as it may be.
const FITTING: Size = Size { most: 256 << 10, least: 1 << 10 };

/// The table as the document has it, and the sizes in KiB of those extras that are to fit. systemd as PID 1 needs a
/// writable cgroup file system, a command must not.
fn file_systems(doc: &Document, extras: &[Extra]) -> Result<(Vec<Value>, Vec<u64>)> {
    let has_init = has_init(doc)?;
    let is_free = |mount: &&Mount| extras.iter().all(|extra| extra.destination != Path::new(mount.destination));
    let fitting = extras.iter().filter(|extra| extra.fits()).map(|_| &FITTING);
    let sizes: Vec<&Size> =
        MOUNTS.iter().filter(is_free).filter_map(|mount| mount.size.as_ref()).chain(fitting).collect();
    let extra = extras.iter().map(Extra::memory).fold(0, u64::saturating_add);
    let mut sizes = fit(&sizes, doc.read("linux.resources.memory.limit")?, extra)?.into_iter();
    let maps = Maps::of(doc)?;
    let has_terminals_group = maps.as_ref().is_none_or(|maps| maps.has_group(TERMINALS));
    // Only whose a network is may mount what shows it: sysfs(5).
    let binds_sysfs = maps.is_some() && !namespace::flags(doc)?.contains(CloneFlags::CLONE_NEWNET);
    let mounts = MOUNTS.iter().filter(is_free).map(|mount| {
        if mount.kind == "sysfs" && binds_sysfs {
            return shared_mount(mount.destination, None);
        }
        let mut options: Vec<String> = mount.options.iter().map(|option| (*option).to_owned()).collect();
        if mount.kind == "devpts" && has_terminals_group {
            options.push(format!("gid={TERMINALS}"));
        }
        if mount.kind == "cgroup" {
            options.push(if has_init { "rw" } else { "ro" }.into());
        }
        if let Some(size) = mount.size.as_ref().and_then(|_| sizes.next()) {
            options.push(format!("size={size}k"));
        }
        json!({ "destination": mount.destination, "type": mount.kind, "source": mount.kind, "options": options })
    });
    Ok((mounts.collect(), sizes.collect()))
}

/// Whether a container's first process is an init.
pub fn has_init(doc: &Document) -> Result<bool> {
    let has_units = doc.read::<Vec<String>>("sbx.unit.names")?.is_some_and(|names| !names.is_empty());
    Ok(has_units || doc.get("sbx.unit.init").is_some())
}

/// The sizes in KiB, together below half of the memory limit in bytes: what lies in a tmpfs is charged to the
/// container, and so are the `extra` bytes of others. What is left above the least sizes is shared out evenly. A
/// negative limit means none, as in OCI.
fn fit(sizes: &[&Size], limit: Option<i64>, extra: u64) -> Result<Vec<u64>> {
    let most: u64 = sizes.iter().map(|size| size.most).sum();
    let least: u64 = sizes.iter().map(|size| size.least).sum();
    let extra = extra.div_ceil(1024);
    let half = limit.and_then(|limit| u64::try_from(limit).ok()).map_or(u64::MAX, |limit| limit / 2 / 1024);
    if half < least.saturating_add(extra) {
        bail!(
            "linux.resources.memory.limit {} is too small: the tmpfs mounts need {} and may have half of it",
            limit.unwrap_or_default(),
            least.saturating_add(extra).saturating_mul(1024)
        );
    }
    let half = half - extra;
    let (spare, wanted) = (half.min(most) - least, most - least);
    let share = |size: &&Size| size.least + (size.most - size.least) * spare / wanted;
    // Whole pages, to which the kernel would round up.
    Ok(sizes.iter().map(|size| share(size) / PAGE * PAGE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Programs, programs};
    use crate::scratch::Scratch;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn lay_out(doc: &mut Document, wish: Wish, root: &Path) -> Result<()> {
        layout(doc, wish, &Host::at(root)?)
    }

    fn document(text: &str) -> Document {
        Document::parse(text.as_bytes()).expect("document")
    }

    fn mounts(doc: &Document) -> Vec<(String, String, Vec<String>)> {
        let text = |mount: &Value, key: &str| mount[key].as_str().expect(key).to_owned();
        let options = |mount: &Value| serde_json::from_value(mount["options"].clone()).expect("options");
        let mounts: Vec<Value> = doc.require("mounts").expect("mounts");
        mounts.iter().map(|mount| (text(mount, "destination"), text(mount, "type"), options(mount))).collect()
    }

    fn mounts_wished(mounts: Vec<Extra>) -> Wish {
        Wish { mounts, ..Wish::default() }
    }

    fn shared(doc: &Document) -> Vec<String> {
        mounts(doc).into_iter().filter_map(|(path, kind, _)| (kind == "bind").then_some(path)).collect()
    }

    #[test]
    fn a_merged_host_shares_usr_and_a_split_one_each_real_directory_too() {
        let merged = Scratch::new("merged");
        for (name, target) in [("bin", "usr/bin"), ("lib", "/usr/lib"), ("lib32", "usr/lib32")] {
            symlink(target, merged.path().join(name)).expect("link");
        }
        let mut doc = document(r#"{"sbx":{"name":"x"}}"#);
        lay_out(&mut doc, Wish::default(), merged.path()).expect("layout");
        assert_eq!(shared(&doc), ["/usr"]);

        let split = Scratch::new("split");
        for name in ["usr", "bin", "sbin", "lib", "lib64", "libx32"] {
            fs::create_dir(split.path().join(name)).expect("directory");
        }
        symlink("lib64", split.path().join("lib32")).expect("link");
        let mut doc = document(r#"{"sbx":{"name":"x"}}"#);
        lay_out(&mut doc, Wish::default(), split.path()).expect("layout");
        assert_eq!(shared(&doc), ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/libx32"]);
        let found = programs(split.path()).expect("programs");
        assert!(found.contains(&Programs::Link { name: "lib32", target: "lib64".into() }));
    }

    #[test]
    fn foreign_mounts_stay_and_a_second_layout_changes_nothing() {
        let host = Scratch::new("foreign");
        let text = r#"{"sbx":{"name":"x"},"root":{"readonly":false},"mounts":[
            {"destination":"/srv/www","type":"bind","source":"/srv/www","x":1},{"destination":"/tmp/","type":"tmpfs"}]}"#;
        let mut doc = document(text);
        lay_out(&mut doc, Wish::default(), host.path()).expect("layout");
        let all: Vec<Value> = doc.require("mounts").expect("mounts");
        assert_eq!(all.len(), MOUNTS.len() + 2);
        assert_eq!(all.last().map(|mount| mount["x"].clone()), Some(json!(1)));
        assert_eq!(doc.get("root.readonly").as_deref(), Some("false"));
        let mut again = doc.clone();
        lay_out(&mut again, Wish::default(), host.path()).expect("layout");
        assert_eq!(again, doc);
    }

    #[test]
    fn a_wished_mount_may_take_the_place_of_a_memory_file_system_and_counts_as_one() {
        let host = Scratch::new("wished");
        fs::create_dir(host.path().join("data")).expect("directory");
        let wish = |text: &str| text.parse::<Extra>().expect(text);
        let mut doc = document(r#"{"sbx":{"name":"x"},"linux":{"resources":{"memory":{"limit":134217728}}}}"#);
        let wishes = vec![wish("ram:/tmp=40M"), wish("host-bind:/srv=/none"), wish("host-bind:/srv=/data")];
        lay_out(&mut doc, mounts_wished(wishes), host.path()).expect("layout");
        let all = mounts(&doc);
        let tmp: Vec<_> = all.iter().filter(|(path, ..)| path == "/tmp").collect();
        assert_eq!(tmp.len(), 1);
        assert!(tmp[0].2.contains(&"size=40960k".to_owned()));
        let size = |options: &Vec<String>| {
            options.iter().find_map(|option| option.strip_prefix("size=")?.strip_suffix('k')?.parse::<u64>().ok())
        };
        assert!(all.iter().filter_map(|(_, _, options)| size(options)).sum::<u64>() <= 64 << 10);
        assert_eq!(doc.get("sbx.mounts").as_deref(), Some(r#"["ram:/tmp=40M","host-bind:/srv=/data"]"#));
        let mut again = doc.clone();
        lay_out(&mut again, Wish::default(), host.path()).expect("layout");
        assert_eq!(again, doc);
        let error = lay_out(&mut again, mounts_wished(vec![wish("ram:/tmp=80M")]), host.path())
            .expect_err("too large")
            .to_string();
        assert!(error.contains("too small"), "{error}");
        let most = ["ram:/srv=9223372036854775807", "ram:/mnt=9223372036854775807"].map(wish).into();
        assert!(lay_out(&mut again, mounts_wished(most), host.path()).is_err());
        assert!(lay_out(&mut again, mounts_wished(vec![wish("host-bind:/mnt=/none")]), host.path()).is_err());
    }

    #[test]
    fn a_root_of_its_own_shares_no_programs() {
        let host = Scratch::new("base");
        let mut doc = document(r#"{"sbx":{"name":"x"}}"#);
        base(&mut doc, host.path()).expect("base");
        lay_out(&mut doc, Wish::default(), "/".as_ref()).expect("layout");
        assert_eq!(shared(&doc), [""; 0]);
        for bad in ["/", "/..", "/no/such", "/proc/version"] {
            assert!(base(&mut doc, bad.as_ref()).is_err(), "{bad}");
        }
    }

    #[test]
    fn of_a_tree_that_there_is_only_an_image_changes_and_only_grows() {
        let kept = |text: &str, wanted: &str| {
            let mut doc = document(&format!(r#"{{"sbx":{{"name":"x",{text}}}}}"#));
            store(&mut doc, wanted.parse().expect(wanted), text.contains("clone"))?;
            doc.read("sbx.store")
        };
        let image = |mib: u64| Some(json!({ "kind": "image", "size": mib << 20 }));
        assert_eq!(kept(r#""x":1"#, "directory").expect("new"), None);
        assert_eq!(kept(r#""x":1"#, "image:16M").expect("new"), image(16));
        let tree = r#""store":{"kind":"image","size":16777216},"clone":{}"#;
        assert_eq!(kept(tree, "image:17M").expect("grows"), image(24));
        assert_eq!(kept(tree, "image:16M").expect("the same"), image(16));
        for (text, wanted) in [(tree, "image:8M"), (tree, "overlay"), (r#""clone":{}"#, "image:8M")] {
            assert!(kept(text, wanted).is_err(), "{text} {wanted}");
        }
    }

    #[test]
    fn the_cgroup_file_system_is_writable_for_a_unit_only() {
        let host = Scratch::new("cgroup");
        for (names, expected) in [(r#"["a.service"]"#, "rw"), ("[]", "ro"), ("null", "ro")] {
            let mut doc = document(&format!(r#"{{"sbx":{{"name":"x","unit":{{"names":{names}}}}}}}"#));
            lay_out(&mut doc, Wish::default(), host.path()).expect("layout");
            let cgroup = mounts(&doc).into_iter().find(|(_, kind, _)| kind == "cgroup").expect("cgroup");
            assert_eq!(cgroup.2.last().map(String::as_str), Some(expected));
        }
    }

    #[test]
    fn the_tmpfs_mounts_stay_below_half_of_the_memory_limit() {
        let sizes: Vec<&Size> = MOUNTS.iter().filter_map(|mount| mount.size.as_ref()).collect();
        let full: Vec<u64> = sizes.iter().map(|size| size.most).collect();
        for limit in [None, Some(-1), Some(1 << 30), Some(i64::MAX)] {
            assert_eq!(fit(&sizes, limit, 0).expect("fit"), full);
        }
        for mib in [9_i64, 10, 64, 128, 512, 777] {
            let fitted = fit(&sizes, Some(mib << 20), 0).expect("fit");
            assert!(fitted.iter().sum::<u64>() * 1024 * 2 <= (mib << 20) as u64, "{mib} MiB: {fitted:?}");
            assert!(fitted.iter().zip(&sizes).all(|(got, size)| (size.least..=size.most).contains(got)));
        }
        let error = fit(&sizes, Some(4 << 20), 0).expect_err("too small").to_string();
        assert!(error.contains("memory.limit 4194304") && error.contains("4259840"), "{error}");
    }

    #[test]
    fn every_throttle_count_of_the_host_is_masked() {
        let host = Scratch::new("cpu");
        for cpu in ["cpu0/thermal_throttle", "cpu1/thermal_throttle", "cpufreq"] {
            fs::create_dir_all(host.path().join("sys/devices/system/cpu").join(cpu)).expect("directory");
        }
        let mut doc = document(r#"{"sbx":{"name":"x"}}"#);
        lay_out(&mut doc, Wish::default(), host.path()).expect("layout");
        let masked: Vec<String> = doc.require("linux.maskedPaths").expect("masked");
        assert_eq!(masked.len(), MASKED.len() + 2);
        assert!(masked.contains(&"/sys/devices/system/cpu/cpu1/thermal_throttle".to_owned()));
    }
}
