//! What of the host's files a clone does not get: secrets that prove the identity of the host or of its people, or
//! that open what is not the service's. What a service has in its own configuration, it needs, and it stays.

use crate::copy::{Entry, Verdict};
use crate::parallel;
use anyhow::{Context, Result};
use rustix::fs::Statx;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

/// The files whose entries may have a password in their second field. They are cloned with all passwords locked.
const LOCKED: [&str; 4] = ["/etc/shadow", "/etc/gshadow", "/etc/passwd", "/etc/group"];

/// What is left out, and why. `*` stands for any part of a name; a pattern without `/` is a name in any directory. A
/// directory whose content alone is secret stays, since packages and services expect it.
const SECRETS: [(&str, &str); 61] = [
    ("/etc/shadow-", "earlier passwords"),
    ("/etc/shadow.*", "earlier passwords"),
    ("/etc/gshadow-", "earlier passwords"),
    ("/etc/gshadow.*", "earlier passwords"),
    ("/etc/passwd-", "earlier passwords"),
    ("/etc/group-", "earlier passwords"),
    ("/etc/security/opasswd*", "earlier passwords"),
    ("/etc/ssh/ssh_host_*", "the host's SSH identity"),
    ("/etc/dropbear/*", "the host's SSH identity"),
    ("/etc/ssl/private/*", "private keys of TLS"),
    ("/etc/pki/private/*", "private keys of TLS"),
    ("/etc/pki/*/private/*", "private keys of TLS"),
    ("/etc/pki/nssdb/key*.db", "private keys of TLS"),
    ("/etc/ipa/nssdb/*", "private keys of TLS, and their password"),
    ("/etc/letsencrypt/accounts", "the account that certificates are issued to"),
    ("/etc/letsencrypt/archive", "private keys of TLS"),
    ("/etc/letsencrypt/keys", "private keys of TLS"),
    ("/etc/letsencrypt/live", "links to private keys of TLS"),
    ("*.p12", "a container of private keys"),
    ("*.pfx", "a container of private keys"),
    ("*.jks", "a container of private keys"),
    ("*.keytab", "Kerberos keys"),
    ("/etc/sbx", "the definitions of all containers"),
    (".git", "history, with the secrets of all of /etc (etckeeper)"),
    ("/etc/sssd/*", "passwords of the directory service"),
    ("/etc/nslcd.conf", "passwords of the directory service"),
    ("/etc/pam_radius_auth.conf", "passwords of the directory service"),
    ("/etc/sasldb2", "passwords of mail"),
    ("/etc/postfix/sasl_passwd*", "passwords of mail"),
    ("/etc/*.secret", "passwords of the directory service"),
    ("/etc/NetworkManager/system-connections/*", "passwords of networks"),
    ("/etc/netplan/*", "passwords of networks"),
    ("/etc/wpa_supplicant/*", "passwords of networks"),
    ("/etc/iwd/*", "passwords of networks"),
    ("/etc/hostapd/*", "passwords of networks"),
    ("/etc/network/interfaces*", "passwords of networks"),
    ("/etc/ppp/*-secrets", "passwords of networks"),
    ("/etc/wireguard/*", "keys of tunnels"),
    ("/etc/systemd/network/*.netdev", "keys of tunnels"),
    ("/etc/ipsec.secrets", "keys of tunnels"),
    ("/etc/ipsec.d/private/*", "keys of tunnels"),
    ("/etc/swanctl/private/*", "keys of tunnels"),
    ("/etc/cryptsetup-keys.d/*", "keys of disks"),
    ("/etc/luks/*", "keys of disks"),
    ("/etc/keys/*", "keys of disks"),
    ("/etc/iscsi/*", "the host's identity and passwords in the storage network"),
    ("/etc/nvme/*", "the host's identity and passwords in the storage network"),
    ("/etc/target/*", "passwords of the storage network"),
    ("/etc/davfs2/secrets", "passwords of file servers"),
    ("/etc/ceph/*.keyring", "keys of the storage cluster"),
    ("/etc/corosync/authkey", "key of the cluster"),
    ("/etc/pacemaker/authkey", "key of the cluster"),
    ("/etc/kubernetes", "keys of the cluster"),
    ("/etc/rancher", "keys of the cluster"),
    ("/etc/credstore*", "systemd credentials, of any service"),
    ("/etc/libvirt/secrets", "keys of virtual machines' disks"),
    ("/etc/apt/auth.conf*", "passwords of package repositories"),
    ("/etc/docker/key.json", "the host's identity"),
    ("/var/lib/systemd/credential.secret", "the key of all systemd credentials"),
    ("/var/lib/systemd/random-seed", "what the host's random numbers begin with"),
    ("/var/lib/sss/secrets", "passwords of people who logged in"),
];

/// The largest file that is searched for a private key. Keys are small; one in a bundle of all public certificates
/// would still be found.
const SEARCHED: u64 = 1 << 20;

/// The path of a secret that a clone is to get: absolute, and nothing in it that leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret(String);

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
        let path = Path::new(text);
        if path.is_absolute() && path.components().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("bad path of a secret {text:?}: an absolute one without .."))
        }
    }
}

impl TryFrom<String> for Secret {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.0
    }
}

/// Decides what is secret, but for what is let in.
#[derive(Debug)]
pub struct Secrets {
    let_in: Vec<PathBuf>,
    /// What was left out, and why.
    withheld: Mutex<Vec<String>>,
}

impl Secrets {
    /// All secrets but those of `let_in`, each of which must exist below `host`. A link is let in with what it leads
    /// to.
    pub fn of(host: &Path, let_in: &[Secret]) -> Result<Self> {
        let mut paths = Vec::new();
        for Secret(text) in let_in {
            let real = host.join(text.trim_start_matches('/')).canonicalize();
            let real = real.with_context(|| format!("no secret {text} to let in"))?;
            paths.push(PathBuf::from(text));
            paths.extend(real.strip_prefix(host).map(|path| Path::new("/").join(path)));
        }
        Ok(Self { let_in: paths, withheld: Mutex::default() })
    }

    /// What becomes of the entry at `path`.
    pub fn judge(&self, path: &Path, entry: &Entry) -> Result<Verdict> {
        // Let in, or on the way to what is.
        if self.let_in.iter().any(|secret| path.starts_with(secret) || secret.starts_with(path)) {
            return Ok(Verdict::Copy);
        }
        // A walk enters what is left out only on the way to what is let in.
        let above = if self.let_in.is_empty() { 1 } else { usize::MAX };
        if let Some(reason) = path.ancestors().take(above).find_map(reason) {
            return Ok(self.withhold(path, reason));
        }
        match entry {
            Entry::File(file, stat) if LOCKED.iter().any(|locked| path == Path::new(locked)) => {
                Ok(Verdict::Change(lock(&read(file, stat)?)))
            }
            Entry::File(file, stat) if path.starts_with("/etc") && stat.stx_size <= SEARCHED => {
                let is_key = has_private_key(&read(file, stat)?);
                Ok(if is_key { self.withhold(path, "a private key") } else { Verdict::Copy })
            }
            _ => Ok(Verdict::Copy),
        }
    }

    /// What there is to say of what was left out.
    pub fn told(&self) -> Option<String> {
        let mut withheld = parallel::lock(&self.withheld).clone();
        withheld.sort();
        let withheld = withheld.join(", ");
        (!withheld.is_empty()).then(|| format!("left out, unless --secret PATH lets it in: {withheld}"))
    }

    fn withhold(&self, path: &Path, reason: &str) -> Verdict {
        parallel::lock(&self.withheld).push(format!("{} ({reason})", path.display()));
        Verdict::Leave
    }
}

/// The reason for which the table leaves out `path` itself.
fn reason(path: &Path) -> Option<&'static str> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let is_meant = |pattern: &str| {
        let text = if pattern.contains('/') { path.as_os_str().as_bytes() } else { name };
        matches(pattern.as_bytes(), text)
    };
    SECRETS.iter().find_map(|(pattern, reason)| is_meant(pattern).then_some(*reason))
}

/// Whether a pattern is for a text; `*` stands for any bytes but a slash.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (Some((b'*', rest)), first) => {
            matches(rest, text) || first.is_some_and(|(byte, text)| *byte != b'/' && matches(pattern, text))
        }
        (Some((wanted, pattern)), Some((byte, text))) => wanted == byte && matches(pattern, text),
        (None, None) => true,
        _ => false,
    }
}

/// All that a file held when it was looked at. Leaves the file's position alone.
pub fn read(file: &File, stat: &Statx) -> Result<Vec<u8>> {
    let mut bytes = vec![0; stat.stx_size as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Whether one of the lines begins a private key, as PEM, OpenSSH, OpenPGP and OpenVPN write it, also within YAML and
/// JSON.
fn has_private_key(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let contains = |line: &[u8], text: &[u8]| line.windows(text.len()).any(|part| part == text);
    let mut begins = bytes.split(|byte| *byte == b'\n').filter(|line| contains(line, BEGIN));
    begins.any(|line| {
        contains(line, b"PRIVATE KEY-----") || contains(line, b"PRIVATE KEY BLOCK") || contains(line, b"OpenVPN ")
    })
}

/// A shadow(5) file, or one like it, with `!` in place of every password, which no password matches. A locked
/// account keeps its password behind a `!`, so only what cannot be one stays: `*`, `!`, and the `x` that passwd has.
fn lock(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split(|byte| *byte == b'\n').map(|line| {
        let mut fields: Vec<Cow<[u8]>> = line.split(|byte| *byte == b':').map(Cow::from).collect();
        if let Some(password) = fields.get_mut(1)
            && (password.is_empty() || password.iter().any(|byte| !b"*!x".contains(byte)))
        {
            *password = Cow::from(&b"!"[..]);
        }
        fields.join(&b':')
    });
    lines.collect::<Vec<_>>().join(&b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn leaves_out(path: &str) -> bool {
        Path::new(path).ancestors().any(|path| reason(path).is_some())
    }

    #[test]
    fn the_table_names_what_is_secret_and_nothing_else() {
        for path in [
            "/etc/shadow-",
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/ssl/private/a.key",
            "/etc/pki/tls/private/localhost.key",
            "/etc/letsencrypt/archive/a.org/privkey1.pem",
            "/etc/.git",
            "/etc/apache2/.git/config",
            "/etc/httpd/conf/http.keytab",
            "/etc/sbx/a.json",
            "/etc/credstore.encrypted/x",
        ] {
            assert!(leaves_out(path), "{path}");
        }
        for path in [
            "/etc",
            "/etc/shadow",
            "/etc/shadow-maint",
            "/etc/ssl/private",
            "/etc/ssl/certs/a.pem",
            "/etc/ssh/sshd_config",
            "/etc/gitconfig",
            "/etc/mysql/debian.cnf",
            "/etc/letsencrypt/options-ssl-apache.conf",
            "/etc/pki/tls/certs",
        ] {
            assert!(!leaves_out(path), "{path}");
        }
    }

    #[test]
    fn every_password_is_locked_and_nothing_else_is_changed() {
        let shadow = b"root:$y$j9T$abc:19000:0:99999:7:::\ndaemon:*:1::\nsys:!*:1:\nold:!$6$a$b:1:\n\
            open::1:\n+::::\nodd line\nl\xff:\xfe:1\nlast:!!:";
        let locked = b"root:!:19000:0:99999:7:::\ndaemon:*:1::\nsys:!*:1:\nold:!:1:\n\
            open:!:1:\n+:!:::\nodd line\nl\xff:!:1\nlast:!!:";
        assert_eq!(lock(shadow), locked);
        let passwd = b"root:x:0:0:root:/root:/bin/bash\nnis:aXbYcZ:1:1::/:\n";
        assert_eq!(lock(passwd), b"root:x:0:0:root:/root:/bin/bash\nnis:!:1:1::/:\n");
        assert_eq!(lock(b""), b"");
    }

    #[test]
    fn a_private_key_is_found_by_what_it_is() {
        for key in [
            "-----BEGIN PRIVATE KEY-----\nx",
            "cert\n-----BEGIN RSA PRIVATE KEY-----\n",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----",
            "#\n-----BEGIN OpenVPN Static key V1-----\r\n",
            "  key: |\n    -----BEGIN PRIVATE KEY-----\n",
            r#"{"private_key": "-----BEGIN PRIVATE KEY-----\nMII"}"#,
        ] {
            assert!(has_private_key(key.as_bytes()), "{key}");
        }
        for other in ["", "-----BEGIN CERTIFICATE-----\nPRIVATE KEY", "BEGIN"] {
            assert!(!has_private_key(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_secret_is_let_in_with_its_way_and_with_what_a_link_leads_to() {
        let host = Scratch::new("secrets");
        let etc = host.path().join("etc/letsencrypt");
        fs::create_dir_all(etc.join("live/a")).expect("directory");
        fs::create_dir_all(etc.join("archive/a")).expect("directory");
        fs::write(etc.join("archive/a/key1.pem"), "-----BEGIN PRIVATE KEY-----").expect("file");
        symlink("../../archive/a/key1.pem", etc.join("live/a/key.pem")).expect("link");
        let let_in = ["/etc/letsencrypt/live/a/key.pem".parse().expect("secret")];
        let secrets = Secrets::of(host.path(), &let_in).expect("secrets");
        let verdict = |path: &str| secrets.judge(Path::new(path), &Entry::Directory).expect("judge");
        for path in ["live", "live/a", "live/a/key.pem", "archive", "archive/a", "archive/a/key1.pem"] {
            assert_eq!(verdict(&format!("/etc/letsencrypt/{path}")), Verdict::Copy, "{path}");
        }
        for path in ["keys", "live/b", "live/a/other.pem", "archive/a/key2.pem"] {
            assert_eq!(verdict(&format!("/etc/letsencrypt/{path}")), Verdict::Leave, "{path}");
        }
        assert!(Secrets::of(host.path(), &["/etc/none".parse().expect("secret")]).is_err());
        for bad in ["", "etc/x", "/etc/../x"] {
            assert!(bad.parse::<Secret>().is_err(), "{bad:?}");
        }
    }
}
