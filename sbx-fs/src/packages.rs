//! Which directories below /var a service needs: what the host's package manager and its unit say.

use anyhow::{Context, Result, bail};
use sbx::host::UNIT_DIRECTORIES;
use sbx::passwd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::str::FromStr;

/// The name of a package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Package(String);

impl FromStr for Package {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The names of dpkg and rpm, and dpkg's `:ARCHITECTURE`. The first character makes it no option.
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._:~^".contains(&byte);
        match text.as_bytes() {
            [first, ..] if first.is_ascii_alphanumeric() && text.bytes().all(rest) => Ok(Self(text.to_owned())),
            _ => Err(format!("bad package name {text:?}")),
        }
    }
}

impl TryFrom<String> for Package {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Package> for String {
    fn from(package: Package) -> Self {
        package.0
    }
}

/// The host's package manager.
#[derive(Debug, Clone, Copy)]
enum Manager {
    Dpkg,
    Rpm,
}

impl Manager {
    /// The one whose database has packages: either program is installed on hosts of the other as well.
    fn of_host() -> Self {
        let has_dpkg = fs::metadata("/var/lib/dpkg/status").is_ok_and(|status| status.len() > 0);
        if has_dpkg { Self::Dpkg } else { Self::Rpm }
    }

    fn run(self, options: &[&str], operands: &[&str]) -> Result<Output> {
        let program = match self {
            Self::Dpkg => "dpkg-query",
            Self::Rpm => "rpm",
        };
        let mut command = Command::new(program);
        let output = command.args(options).arg("--").args(operands).env("LC_ALL", "C").output();
        output.with_context(|| format!("cannot run {program}"))
    }

    /// The packages that own one of `paths`; none is no error.
    fn owners(self, paths: &[&str]) -> Result<Vec<Package>> {
        let mut owners = Vec::new();
        match self {
            // dpkg takes a path for a pattern: a backslash, which names of units have, needs one more.
            Self::Dpkg => {
                let patterns: Vec<String> = paths.iter().map(|path| path.replace('\\', r"\\")).collect();
                let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
                let output = self.run(&["--search"], &patterns)?;
                owners = owners_of_dpkg(&String::from_utf8_lossy(&output.stdout));
            }
            // For a path that nobody owns rpm says so on stdout, and fails.
            Self::Rpm => {
                for path in paths {
                    let output = self.run(&["--query", "--queryformat", "%{NAME}\n", "--file"], &[path])?;
                    if output.status.success() {
                        owners.extend(
                            String::from_utf8_lossy(&output.stdout).lines().filter_map(|name| name.parse().ok()),
                        );
                    }
                }
            }
        }
        Ok(owners)
    }

    /// What a package has below /var.
    fn var(self, package: &Package) -> Result<Vec<String>> {
        let option: &[&str] = match self {
            Self::Dpkg => &["--listfiles"],
            Self::Rpm => &["--query", "--list"],
        };
        let output = self.run(option, &[&package.0])?;
        if !output.status.success() {
            bail!("package {} is not installed", package.0);
        }
        let text = String::from_utf8(output.stdout).with_context(|| format!("files of package {}", package.0))?;
        Ok(text.lines().filter(|line| line.starts_with("/var/")).map(str::to_owned).collect())
    }
}

/// dpkg's answer: lines such as `apache2, other:amd64: /lib/systemd/system/apache2.service`.
fn owners_of_dpkg(text: &str) -> Vec<Package> {
    let owners = text.lines().filter_map(|line| line.split_once(": ")).flat_map(|(owners, _)| owners.split(", "));
    // A diversion's line begins with words that are no package's name.
    owners.filter_map(|owner| owner.parse().ok()).collect()
}

/// The packages that own the files of `units`, under whichever of its spellings the database has a path: on a merged
/// host dpkg may know as /lib/systemd what is reached as /usr/lib/systemd.
pub fn owners(units: &[String]) -> Result<Vec<Package>> {
    let names = units.iter().flat_map(|unit| [unit.clone(), template(unit)]).collect::<BTreeSet<_>>();
    let paths: Vec<String> = names
        .iter()
        .flat_map(|name| UNIT_DIRECTORIES.map(|dir| format!("{dir}/{name}")))
        .filter(|path| exists(path))
        .collect();
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    Manager::of_host().owners(&paths.iter().map(String::as_str).collect::<Vec<_>>())
}

fn exists(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// The file of a unit: `foo@.service` for `foo@bar.service`.
pub fn template(unit: &str) -> String {
    match (unit.split_once('@'), unit.rsplit_once('.')) {
        (Some((prefix, _)), Some((_, kind))) => format!("{prefix}@.{kind}"),
        _ => unit.to_owned(),
    }
}

/// The real directories below /var that `packages` list, and those that are the service's by their name or owner:
/// maintainer scripts make directories (/var/lib/mysql, /var/lib/redis) that no package lists.
pub fn directories(host: &Path, units: &[String], packages: &[Package]) -> Result<Vec<String>> {
    let mut paths: BTreeSet<String> = unlisted(host, units, packages)?.into_iter().collect();
    for package in packages {
        paths.extend(Manager::of_host().var(package)?);
    }
    Ok(paths.into_iter().filter(|path| is_real_directory(host, path)).collect())
}

/// Whether a path is a directory, and no part of it a link: /var/run/x is not below /var.
fn is_real_directory(host: &Path, path: &str) -> bool {
    let mut place = host.to_owned();
    Path::new(path.trim_start_matches('/')).components().all(|name| {
        place.push(name);
        fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Where a service has its content that neither its package nor any name tells: Debian's web servers share a directory,
/// and nginx's page is put there by its maintainer script.
const CONTENT: [(&str, &str); 1] = [("nginx", "/var/www/html")];

/// The directories that are called like a unit or its package, or belong to the user whom a unit runs as.
fn unlisted(host: &Path, units: &[String], packages: &[Package]) -> Result<Vec<String>> {
    let of_units = units.iter().filter_map(|unit| unit.split(['@', '.']).next());
    let of_packages = packages.iter().filter_map(|package| package.0.split(':').next());
    let names: BTreeSet<&str> = of_units.chain(of_packages).collect();
    let known = passwd::read(File::open(host).with_context(|| format!("cannot open {}", host.display()))?)?;
    let users = units.iter().flat_map(|unit| users(host, unit));
    let uids: BTreeSet<u32> = users.filter_map(|user| Some(passwd::find_name(&known, &user)?.uid)).collect();
    let content = CONTENT.iter().filter(|(name, _)| names.contains(name));
    let mut found: Vec<String> = content.map(|(_, path)| (*path).to_owned()).collect();
    for parent in ["var/cache", "var/lib", "var/log", "var/spool"] {
        // A host without one of them has nothing in it.
        for entry in fs::read_dir(host.join(parent)).into_iter().flatten().flatten() {
            let (name, owner) = (entry.file_name(), entry.metadata().map_or(0, |metadata| metadata.uid()));
            let is_own = name.to_str().is_some_and(|name| names.contains(name)) || owner != 0 && uids.contains(&owner);
            found.extend(name.to_str().filter(|_| is_own).map(|name| format!("/{parent}/{name}")));
        }
    }
    Ok(found)
}

/// The users whom a unit's file and drop-ins name, whichever of them counts in the end.
fn users(host: &Path, unit: &str) -> Vec<String> {
    let mut files = Vec::new();
    for dir in UNIT_DIRECTORIES {
        for name in BTreeSet::from([unit.to_owned(), template(unit)]) {
            let file = host.join(&dir[1..]).join(&name);
            let drop_ins = fs::read_dir(file.with_file_name(format!("{name}.d"))).into_iter().flatten().flatten();
            files
                .extend(drop_ins.map(|entry| entry.path()).filter(|path| path.extension() == Some(OsStr::new("conf"))));
            files.push(file);
        }
    }
    let texts = files.iter().filter_map(|file: &PathBuf| fs::read_to_string(file).ok());
    texts.flat_map(|text| text.lines().filter_map(user).collect::<Vec<_>>()).collect()
}

/// The user that one line of a unit's file sets.
fn user(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    (key.trim() == "User").then(|| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{Scratch, is_root};
    use std::os::unix::fs::{chown, symlink};

    #[test]
    fn a_package_name_is_no_option_and_no_path() {
        for good in ["apache2", "libc6:amd64", "libstdc++6", "0ad", "python3.11", "java-17-openjdk"] {
            assert!(good.parse::<Package>().is_ok(), "{good}");
        }
        for bad in ["", "-S", "--root=/", "a/b", "a b", "*", "a\n"] {
            assert!(bad.parse::<Package>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn dpkg_names_owners_and_diversions() {
        let text = "diversion by dash from: /bin/sh\napache2, x:amd64: /lib/systemd/system/a.service\n";
        assert_eq!(owners_of_dpkg(text), ["apache2", "x:amd64"].map(|name| Package(name.into())));
    }

    #[test]
    fn the_file_of_an_instance_is_its_template() {
        assert_eq!(template("postgresql@15-main.service"), "postgresql@.service");
        assert_eq!(template("apache2.service"), "apache2.service");
    }

    #[test]
    fn a_directory_that_no_package_lists_is_the_services_by_name_or_owner() {
        if !is_root() {
            return;
        }
        let host = Scratch::new("unlisted");
        let make = |path: &str| fs::create_dir_all(host.path().join(path)).expect("directory");
        for path in ["etc", "usr/lib/systemd/system", "var/lib/mysql", "var/lib/other", "var/log/mariadb", "run/x"] {
            make(path);
        }
        make("var/www/html");
        symlink("/run", host.path().join("var/run")).expect("link");
        fs::write(host.path().join("etc/passwd"), "root:x:0:0::/:\nmysql:x:4711:1::/:\n").expect("passwd");
        let unit = host.path().join("usr/lib/systemd/system/mariadb.service");
        fs::write(unit, "[Service]\nUser = mysql\n").expect("unit");
        chown(host.path().join("var/lib/mysql"), Some(4711), None).expect("chown");
        let found = directories(host.path(), &["mariadb.service".into()], &[]).expect("directories");
        assert_eq!(found, ["/var/lib/mysql", "/var/log/mariadb"]);
        let found = directories(host.path(), &["nginx.service".into()], &[]).expect("directories");
        assert_eq!(found, ["/var/www/html"]);
        assert!(!is_real_directory(host.path(), "/var/run/x"));
        assert!(is_real_directory(host.path(), "/var/lib/other"));
    }
}
