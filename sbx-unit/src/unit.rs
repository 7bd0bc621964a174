//! The host's units: their names, and how systemd finds and completes them (systemd.unit(5)).

use crate::parse::{Assignment, parse};
use anyhow::{Context, Result, anyhow, bail, ensure};
use sbx::Name;
use sbx::host::UNIT_DIRECTORIES;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the host's units lie that are its own.
pub const LASTING: &str = UNIT_DIRECTORIES[0];

/// Where they lie until the next boot.
pub const VOLATILE: &str = UNIT_DIRECTORIES[1];

/// Where systemd looks for a program that is named without a path.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The longest name of a unit in bytes.
const MAX_LEN: usize = 255;

/// The types of units that are not services: their suffixes.
const OTHER_TYPES: [&str; 10] =
    ["socket", "timer", "target", "path", "mount", "automount", "device", "swap", "slice", "scope"];

/// How the name of every group's target ends.
pub const GROUP: &str = "_sandbox.target";

/// The full name of a service: `apache2.service`, `postgresql@15-main.service`, `apache2@.service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitName(String);

impl UnitName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before `.service`.
    fn stem(&self) -> &str {
        self.0.strip_suffix(".service").unwrap_or(&self.0)
    }

    /// The parts before and after `@`, of which the latter is empty for a template.
    fn instance(&self) -> Option<(&str, &str)> {
        self.stem().split_once('@')
    }

    /// The name itself; of a template the instance `name`. All of a container's name may stand in a unit's name as it
    /// is, so that `%i` is the container's name.
    pub fn of_container(self, name: &Name) -> Result<Self> {
        match self.instance() {
            Some((template, "")) => {
                format!("{template}@{name}.service").parse().map_err(|error: String| anyhow!(error))
            }
            _ => Ok(self),
        }
    }

    /// The target of all containers of this unit, or of all instances of its template: that of a container (`foo@`) has
    /// but one.
    pub fn group(&self) -> Result<String> {
        let stem = self.instance().map_or_else(|| self.stem().to_owned(), |(template, _)| format!("{template}@"));
        let group = format!("{stem}{GROUP}");
        ensure!(group.len() <= MAX_LEN, "the name of {group} is longer than {MAX_LEN}, the most that systemd takes");
        Ok(group)
    }

    /// The names under which the unit's file may lie: its own, and that of its template.
    fn files(&self) -> Vec<String> {
        let template = self.instance().map(|(template, _)| format!("{template}@.service"));
        std::iter::once(self.0.clone()).chain(template).collect()
    }

    /// The names of the directories with its drop-ins, the most specific first: `foo-bar@x.service.d`,
    /// `foo-bar@.service.d`, `foo-.service.d`, `service.d`.
    fn drop_ins(&self) -> Vec<String> {
        let prefixes = self.0.match_indices('-').rev().map(|(at, _)| format!("{}-.service", &self.0[..at]));
        let names = self.files().into_iter().chain(prefixes).chain(["service".into()]);
        names.map(|name| format!("{name}.d")).collect()
    }
}

impl FromStr for UnitName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
        if text.contains('/') {
            return Err(format!("bad unit {text:?}: a name, not a path"));
        }
        if let Some((_, kind)) = text.rsplit_once('.').filter(|(_, kind)| OTHER_TYPES.contains(kind)) {
            return Err(format!("bad unit {text:?}: a {kind} is not a service"));
        }
        let name = if text.ends_with(".service") { text.to_owned() } else { format!("{text}.service") };
        let stem = name.trim_end_matches(".service");
        if stem.is_empty() || stem.starts_with(['@', '.']) || name.len() > MAX_LEN || !name.bytes().all(allowed) {
            return Err(format!("bad unit {text:?}: up to {MAX_LEN} of A-Z a-z 0-9 : _ . \\ @ -"));
        }
        Ok(Self(name))
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service of the host: what its unit file and its drop-ins say.
#[derive(Debug)]
pub struct Unit {
    /// Its real name, where it was asked for by an alias.
    pub name: UnitName,
    assignments: Vec<Assignment>,
}

impl Unit {
    /// The units that systemd starts along with `wanted`, and with those in turn, from `directories`. One that is not
    /// there systemd will tell of.
    pub fn all_along(wanted: &[Self], directories: &[&Path]) -> Vec<Self> {
        let mut rest: Vec<UnitName> = wanted.iter().flat_map(|unit| unit.along(directories)).collect();
        let mut found: Vec<Self> = Vec::new();
        while let Some(name) = rest.pop() {
            let is_known = |name: &UnitName| wanted.iter().chain(&found).any(|unit| unit.name == *name);
            if let Some(unit) = Self::find(&name, directories).ok().filter(|unit| !is_known(&unit.name)) {
                rest.extend(unit.along(directories));
                found.push(unit);
            }
        }
        found
    }

    /// Finds the unit in `directories`. One that is masked or not there is an error.
    pub fn find(name: &UnitName, directories: &[&Path]) -> Result<Self> {
        let files = name.files();
        let mut places = files.iter().flat_map(|file| directories.iter().map(move |directory| directory.join(file)));
        let path = places.find(|path| path.symlink_metadata().is_ok()).with_context(|| {
            let directories: Vec<_> = directories.iter().map(|directory| directory.to_string_lossy()).collect();
            format!("no unit {name} in {}", directories.join(", "))
        })?;
        let target = path.canonicalize().with_context(|| format!("cannot follow {}", path.display()))?;
        ensure!(target != Path::new("/dev/null"), "{name} is masked by {}", path.display());
        let file = target.metadata().with_context(|| format!("cannot read {}", target.display()))?;
        ensure!(file.is_file(), "{name}: {} is not a file", target.display());
        ensure!(file.len() > 0, "{name} is masked by {}, which is empty", target.display());
        // The container has the units that lie in these directories, and no others.
        let within = |directory: &&Path| directory.canonicalize().is_ok_and(|directory| target.starts_with(directory));
        ensure!(directories.iter().any(within), "{name} leads to {}, where no units are", target.display());
        let name = real_name(name, &target)?;
        let mut assignments = read(&target)?;
        for path in drop_ins(&name, directories) {
            assignments.extend(read(&path)?);
        }
        Ok(Self { name, assignments })
    }

    /// The values that `key` of the section `[Service]` is given, in their order.
    pub fn service<'a>(&'a self, key: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        let of_key = move |a: &&Assignment| a.section == "Service" && a.key == key;
        self.assignments.iter().filter(of_key).map(|a| a.value.as_str())
    }

    /// The services that systemd starts along with it, as far as the files in `directories` tell.
    pub fn along(&self, directories: &[&Path]) -> Vec<UnitName> {
        const DEPENDENCIES: [&str; 4] = ["Wants", "Requires", "BindsTo", "Upholds"];
        let of_unit = |a: &&Assignment| a.section == "Unit" && DEPENDENCIES.contains(&a.key.as_str());
        let values = self.assignments.iter().filter(of_unit).flat_map(|a| a.value.split_whitespace());
        let kinds = ["wants", "requires", "upholds"].into_iter();
        let names = kinds.flat_map(|kind| self.name.files().into_iter().map(move |file| format!("{file}.{kind}")));
        let places = names.flat_map(|name| directories.iter().map(move |directory| directory.join(&name)));
        let links = places.flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
        let links = links.filter_map(|entry| entry.file_name().into_string().ok());
        let all = values.map(str::to_owned).chain(links).filter(|name| name.ends_with(".service"));
        all.filter_map(|name| name.parse().ok()).collect()
    }

    /// Refuses a unit whose program is not on the host. One that may fail (`-`), and one whose name only systemd can
    /// complete, is not looked for.
    pub fn check_programs(&self) -> Result<()> {
        let values: Vec<&str> = self.service("ExecStart").collect();
        // An empty assignment forgets those before it.
        let last = values.rsplit(|value| value.is_empty()).next().unwrap_or_default();
        for program in last.iter().filter_map(|value| program(value)) {
            let installed = if program.contains('/') {
                Path::new(program).exists()
            } else {
                PROGRAMS.iter().any(|directory| Path::new(directory).join(program).exists())
            };
            ensure!(installed, "{} runs {program}, which is not installed", self.name);
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn of_text(name: &str, text: &str) -> Self {
        Self { name: name.parse().expect(name), assignments: parse(text).expect(text) }
    }
}

/// The name of the file that an alias leads to; that of a template becomes the same instance of it.
fn real_name(name: &UnitName, target: &Path) -> Result<UnitName> {
    let file = target.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let real: UnitName = match file.parse() {
        Ok(real) if file.ends_with(".service") => real,
        _ => bail!("{name} leads to {}, which is not a service", target.display()),
    };
    match (real.instance(), name.instance()) {
        (Some((template, "")), Some((_, instance))) if !instance.is_empty() => {
            format!("{template}@{instance}.service").parse().map_err(|error: String| anyhow!(error))
        }
        _ => Ok(real),
    }
}

/// The drop-ins of a unit, sorted by their own names over all directories; of two with one name the more specific, or
/// else the stronger directory's, hides the other.
fn drop_ins(name: &UnitName, directories: &[&Path]) -> Vec<PathBuf> {
    let mut found = BTreeMap::new();
    for drop_in in name.drop_ins() {
        for directory in directories {
            // One that cannot be read is not there.
            for entry in fs::read_dir(directory.join(&drop_in)).into_iter().flatten().flatten() {
                if entry.path().extension() == Some(OsStr::new("conf")) && entry.path().is_file() {
                    found.entry(entry.file_name()).or_insert_with(|| entry.path());
                }
            }
        }
    }
    found.into_values().collect()
}

/// What of a unit lies in `volatile` and is not hidden by `lasting`, as a relative path and a text. A container has a
/// /run of its own, and would not find it.
pub fn volatile(name: &UnitName, volatile: &Path, lasting: &Path) -> Result<Vec<(String, String)>> {
    let mut paths = name.files();
    for drop_in in name.drop_ins() {
        let entries = fs::read_dir(volatile.join(&drop_in)).into_iter().flatten().flatten();
        paths.extend(entries.filter_map(|entry| Some(format!("{drop_in}/{}", entry.file_name().to_str()?))));
    }
    let is_there = |path: &String| volatile.join(path).is_file() && lasting.join(path).symlink_metadata().is_err();
    let read = |path: String| {
        let text = fs::read_to_string(volatile.join(&path)).with_context(|| format!("cannot read {path}"))?;
        Ok((path, text))
    };
    paths.into_iter().filter(is_there).map(read).collect()
}

fn read(path: &Path) -> Result<Vec<Assignment>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&String::from_utf8_lossy(&text)).with_context(|| path.display().to_string())
}

/// The program of a command line, less the prefixes and quotes that systemd takes away.
fn program(line: &str) -> Option<&str> {
    let command = line.trim_start_matches(['-', '@', ':', '+', '!', '|']);
    let may_fail = line[..line.len() - command.len()].contains('-');
    let word = match command.strip_prefix(['"', '\'']) {
        Some(rest) => rest.split(['"', '\'']).next()?,
        None => command.split_whitespace().next()?,
    };
    (!may_fail && !word.contains(['%', '$', '\\'])).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn name(text: &str) -> UnitName {
        text.parse().expect(text)
    }

    /// A directory of units that goes away with the test.
    struct Host(PathBuf);

    impl Host {
        fn new(test: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("sbx-unit-{test}-{}", std::process::id()));
            fs::create_dir_all(directory.join("etc")).expect("mkdir");
            fs::create_dir_all(directory.join("lib")).expect("mkdir");
            Self(directory)
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }

        fn link(&self, path: &str, target: &str) {
            symlink(target, self.0.join(path)).expect("symlink");
        }

        fn find(&self, text: &str) -> Result<Unit> {
            Unit::find(&name(text), &[&self.0.join("etc"), &self.0.join("lib")])
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_unit_is_a_service_with_or_without_its_suffix() {
        for (text, full) in [
            ("apache2", "apache2.service"),
            ("apache2.service", "apache2.service"),
            ("a.b", "a.b.service"),
            ("postgresql@15-main", "postgresql@15-main.service"),
            ("a@b\\x2dc", "a@b\\x2dc.service"),
        ] {
            assert_eq!(name(text).as_str(), full);
        }
        for bad in
            ["", ".service", "@", "@x", "/etc/x.service", "../x", "a b", "a\nb", "a%b", "x.socket", "x.timer", "é"]
        {
            assert!(bad.parse::<UnitName>().is_err(), "{bad:?}");
        }
        let container: Name = "web-1.a".parse().expect("name");
        assert_eq!(name("x@").of_container(&container).expect("name").as_str(), "x@web-1.a.service");
        assert_eq!(name("x@y").of_container(&container).expect("name").as_str(), "x@y.service");
        assert!(name(&format!("{}@", "x".repeat(240))).of_container(&container).is_err());
    }

    #[test]
    fn a_group_is_of_a_unit_or_of_all_instances_of_a_template() {
        for (unit, group) in [
            ("apache2", "apache2_sandbox.target"),
            ("postgresql@15-main", "postgresql@_sandbox.target"),
            ("a\\x2db", "a\\x2db_sandbox.target"),
        ] {
            assert_eq!(name(unit).group().expect(unit), group);
        }
        assert!(name(&"x".repeat(245)).group().is_err());
    }

    #[test]
    fn an_alias_leads_to_the_real_unit_and_a_mask_is_refused() {
        let host = Host::new("alias");
        host.file("lib/real.service", "[Service]\nExecStart=/bin/true\n");
        host.file("lib/real@.service", "[Service]\nExecStart=/bin/true\n");
        host.file("lib/masked.service", "[Service]\nExecStart=/bin/true\n");
        host.link("etc/alias.service", "../lib/real.service");
        host.link("etc/alias@.service", "../lib/real@.service");
        host.link("etc/masked.service", "/dev/null");
        host.file("etc/empty.service", "");
        host.link("etc/dangling.service", "nowhere.service");
        let real = |text| host.find(text).expect(text).name.to_string();
        assert_eq!(real("alias"), "real.service");
        assert_eq!(real("alias@x"), "real@x.service");
        assert_eq!(real("real@x"), "real@x.service");
        let refused = |text| format!("{:#}", host.find(text).expect_err(text));
        assert!(refused("masked").contains("masked.service is masked by"));
        assert!(refused("empty").contains("is masked by"));
        assert!(refused("dangling").contains("cannot follow"));
        assert!(refused("none").starts_with("no unit none.service in /"));
    }

    #[test]
    fn drop_ins_follow_in_the_order_of_their_names_and_hide_each_other() {
        let host = Host::new("drop-ins");
        host.file("lib/a-b@.service", "[Service]\nX=main\n");
        host.file("lib/a-b@x.service.d/30.conf", "[Service]\nX=30\n");
        host.file("lib/a-b@.service.d/10.conf", "[Service]\nX=hidden\n");
        host.file("etc/a-b@.service.d/10.conf", "[Service]\nX=10\n");
        host.file("etc/a-.service.d/40.conf", "[Service]\nX=40\n");
        host.file("etc/service.d/20.conf", "[Service]\nX=20\n[Unit]\nX=other\n");
        host.file("etc/a-b@.service.d/50.txt", "[Service]\nX=no\n");
        let unit = host.find("a-b@x").expect("unit");
        assert_eq!(unit.service("X").collect::<Vec<_>>(), ["main", "10", "20", "30", "40"]);
    }

    #[test]
    fn what_is_volatile_and_not_hidden_is_told() {
        let host = Host::new("volatile");
        host.file("lib/a@.service", "template");
        host.file("lib/a@x.service.d/1.conf", "drop-in");
        host.file("lib/service.d/2.conf", "hidden");
        host.file("etc/service.d/2.conf", "hides");
        host.file("lib/b.service", "another");
        let found = volatile(&name("a@x"), &host.0.join("lib"), &host.0.join("etc")).expect("volatile");
        let expected = [("a@.service", "template"), ("a@x.service.d/1.conf", "drop-in")];
        assert_eq!(found, expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
    }

    #[test]
    fn a_program_that_is_not_installed_is_refused() {
        let check = |text: &str| Unit::of_text("a", &format!("[Service]\n{text}")).check_programs();
        for good in [
            "",
            "ExecStart=/bin/true a",
            "ExecStart=@!/bin/true a",
            "ExecStart=\"/bin/true\" a",
            "ExecStart=true",
            "ExecStart=-/no/such",
            "ExecStart=/opt/%i",
            "ExecStart=/no/such\nExecStart=\nExecStart=/bin/true",
        ] {
            check(good).expect(good);
        }
        for bad in ["ExecStart=/no/such x", "ExecStart=/bin/true\nExecStart=+/no/such", "ExecStart=no-such-program"] {
            let error = check(bad).expect_err(bad).to_string();
            assert!(error.starts_with("a.service runs ") && error.ends_with(", which is not installed"), "{error}");
        }
    }
}
