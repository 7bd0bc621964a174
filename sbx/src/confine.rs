//! The one routine that gives up privileges. The holder, a booted init, the command of a generic container and an
//! executed command all go through it, so that none of them can do more than another.
//!
//! The order matters, and each step says why it stands where it does. Before it the caller has entered the cgroup and
//! the namespaces; each step then takes away something that an earlier one still needed.

mod profile;

pub use profile::{Profile, resource};

use crate::passwd::{Identity, SHELL};
use crate::procfs::Procfs;
use crate::sys::{self, Child};
use crate::terminal::Terminal;
use crate::tool::Status;
use crate::{Document, ids, label, namespace, passwd, rootless};
use anyhow::{Context, Result, ensure};
use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sys::resource::setrlimit;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, execve, getcwd, getpid, setgroups, setresgid, setresuid, setsid};
use rustix::fs::{FileType, OFlags, fstat, makedev};
use rustix::io::fcntl_dupfd_cloexec;
use serde::Deserialize;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

/// What a process is about to become, read from `process` and `linux.seccomp` and checked before anything is changed.
#[derive(Debug)]
pub struct Confinement {
    /// The command and its arguments; none means the user's login shell.
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    /// A login shell begins in the user's home, if that can be entered.
    at_home: bool,
    user: User,
    /// Who takes the place of the document's user.
    other: Option<passwd::Spec>,
    terminal: Option<Terminal>,
    passed: u32,
    oom_score_adj: Option<i32>,
    /// SELinux context of the program, if SELinux is enabled.
    label: Option<String>,
    profile: Profile,
    /// Of a user namespace that another user, the host's root, has made.
    becomes_root: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct User {
    uid: u32,
    gid: u32,
    umask: Option<u32>,
    additional_gids: Vec<u32>,
}

/// A command other than the document's, and what else it has of its own: any bytes, which JSON could not hold.
#[derive(Debug, Default)]
pub struct Command {
    /// The command and its arguments; none means the login shell.
    pub args: Vec<OsString>,
    /// Who executes it, if not the document's user.
    pub user: Option<passwd::Spec>,
    /// Its working directory, if not the document's.
    pub cwd: Option<OsString>,
    /// `NAME=VALUE`, each in place of what the document and those before it say.
    pub env: Vec<OsString>,
    /// The terminal that it gets, and all its standard streams are.
    pub terminal: Option<Terminal>,
    /// How many descriptors after the standard streams it gets, as those that it listens on (sd_listen_fds(3)).
    pub passed: u32,
}

/// Who executes the command, as the container's own files have it.
struct Who {
    identity: Identity,
    entry: Option<passwd::User>,
}

impl Confinement {
    /// Reads and checks what the document asks for.
    pub fn new(doc: &Document) -> Result<Self> {
        Self::by(Profile::of(doc)?, doc)
    }

    /// By this profile, and all else as the document has it.
    pub fn by(profile: Profile, doc: &Document) -> Result<Self> {
        let text = |path: &str| doc.read::<String>(path);
        let list = |path: &str| -> Result<Vec<CString>> {
            let strings: Vec<String> = doc.read(path)?.unwrap_or_default();
            strings.into_iter().map(|s| CString::new(s).with_context(|| format!("{path} holds a NUL"))).collect()
        };
        Ok(Self {
            args: list("process.args")?,
            env: variables(list("process.env")?)?,
            cwd: CString::new(text("process.cwd")?.unwrap_or_else(|| "/".into())).context("process.cwd holds a NUL")?,
            user: doc.read("process.user")?.unwrap_or_default(),
            at_home: false,
            other: None,
            terminal: None,
            passed: 0,
            oom_score_adj: doc.read("process.oomScoreAdj")?,
            label: text("process.selinuxLabel")?,
            profile,
            becomes_root: ids::has_namespace(doc)? && !rootless::is_rootless(doc)?,
        })
    }

    /// Takes another command than the document's.
    pub fn with_command(mut self, command: Command) -> Result<Self> {
        let strings = |strings: Vec<OsString>, what: &'static str| -> Result<Vec<CString>> {
            let strings = strings.into_iter().map(|string| CString::new(string.into_vec()));
            strings.collect::<Result<_, _>>().with_context(|| format!("{what} holds a NUL"))
        };
        self.at_home = command.args.is_empty() && command.cwd.is_none();
        self.args = strings(command.args, "the command")?;
        variables(strings(command.env, "the environment")?)?
            .into_iter()
            .for_each(|variable| set(&mut self.env, variable));
        if let Some(cwd) = strings(Vec::from_iter(command.cwd), "the working directory")?.pop() {
            self.cwd = cwd;
        }
        self.other = command.user;
        self.terminal = command.terminal;
        self.passed = command.passed;
        Ok(self)
    }

    /// Gives up everything and executes the command in place of this process. Returns only on failure.
    pub fn become_command(&self) -> Status {
        let attempt = || -> Result<Status> {
            let who = self.who()?;
            let (command, args) = self.command(&who)?;
            let env = self.environment(&who)?;
            self.give_up(Some(&who))?;
            Ok(execute(&command, &args, &env))
        };
        attempt().unwrap_or_else(Status::own)
    }

    /// Gives up the privileges, but stays the program and the user that it is: the init of a container's command.
    pub fn become_init(&self) -> Result<()> {
        self.give_up(None)
    }

    /// Who the command is executed by: what the container's own passwd and group say, of the document's user too.
    fn who(&self) -> Result<Who> {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
            .context("cannot open the container's root")?;
        let users = passwd::read(&root)?;
        let User { uid, gid, additional_gids, .. } = &self.user;
        let identity = match &self.other {
            Some(other) => other.resolve(&users, &passwd::read_groups(&root)?)?,
            None => Identity { uid: *uid, gid: *gid, groups: additional_gids.clone() },
        };
        Ok(Who { entry: passwd::find(&users, identity.uid), identity })
    }

    /// The order in which privileges go.
    fn give_up(&self, who: Option<&Who>) -> Result<()> {
        self.session()?;
        self.limits()?;
        if self.becomes_root {
            // What it has and makes from now on is root's inside. Not before it has written what is the host's of it.
            namespace::become_root()?;
        }
        self.keyring()?;
        if let Some(who) = who {
            self.streams(who)?;
            // While this process may still write its own attributes, and before its procfs could be another's.
            self.label()?;
            // With the caller's rights: the directory may be closed to the user.
            self.directory(who)?;
            self.inheritance()?;
        }
        // Needs CAP_SETPCAP, which the sets below may not have.
        self.bounding()?;
        if !self.profile.no_new_privs {
            // Without no_new_privs loading a filter needs CAP_SYS_ADMIN, which a user who is not root loses next.
            self.filter()?;
        }
        if let Some(who) = who {
            // Needs CAP_SETGID and CAP_SETUID.
            become_user(&who.identity)?;
        }
        self.capability_sets()?;
        if self.profile.no_new_privs {
            nix::sys::prctl::set_no_new_privs().context("cannot set no_new_privs")?;
            // Last, since it may refuse any call but that which executes the command.
            self.filter()?;
        }
        Ok(())
    }

    /// A session, and so a process group, of its own: a signal to its group would reach the caller's processes outside,
    /// whatever PID namespace they are in (kill(2), pid 0).
    fn session(&self) -> Result<()> {
        match setsid() {
            // It leads one already.
            Ok(_) | Err(Errno::EPERM) => Ok(()),
            Err(error) => Err(error).context("cannot make a session"),
        }
    }

    /// A terminal, if the command gets one. Otherwise a standard stream that is the host's null device becomes the
    /// container's, which is mounted read-only: through the descriptor root inside could change the mode and owner of the
    /// host's.
    fn streams(&self, who: &Who) -> Result<()> {
        if let Some(terminal) = &self.terminal {
            let terminal = terminal.make(who.identity.uid)?;
            return (0..3).try_for_each(|number| sys::place(&terminal, number)).context("cannot place a terminal");
        }
        let null = |fd: BorrowedFd<'_>| {
            fstat(fd).is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3)
            })
        };
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        for (number, stream) in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().enumerate() {
            if null(stream) {
                let open = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty());
                let ours = open().context("cannot open the container's /dev/null")?;
                ensure!(null(ours.as_fd()), "the container's /dev/null is not the null device");
                sys::place(ours, number as i32).context("cannot replace a standard stream")?;
            }
        }
        Ok(())
    }

    /// A fresh session keyring, labelled like the container, so that the caller's keys stay outside.
    fn keyring(&self) -> Result<()> {
        label::making("keycreate", self.label.as_deref(), || {
            sys::new_session_keyring().context("cannot make a session keyring")
        })
    }

    /// Resource limits, the OOM killer's preference, the file mode mask. Raising one needs CAP_SYS_RESOURCE.
    fn limits(&self) -> Result<()> {
        for (resource, soft, hard) in &self.profile.rlimits {
            setrlimit(*resource, *soft, *hard).with_context(|| format!("cannot set {resource:?} to {soft}:{hard}"))?;
        }
        if let Some(score) = self.oom_score_adj {
            Procfs::open()?
                .write_self("oom_score_adj", score.to_string().as_bytes())
                .with_context(|| format!("cannot set the OOM score to {score}"))?;
        }
        umask(Mode::from_bits_truncate(self.user.umask.unwrap_or(0o022)));
        Ok(())
    }

    fn label(&self) -> Result<()> {
        self.label.as_deref().map_or(Ok(()), label::of_program)
    }

    /// The working directory; refused unless it lies below the root. A descriptor that leaked from the caller could
    /// otherwise make it one of the host's (CVE-2024-21626).
    fn directory(&self, who: &Who) -> Result<()> {
        let path = self.cwd.to_string_lossy();
        let home = who.entry.as_ref().filter(|_| self.at_home).map(|user| user.home.as_str());
        if home.is_none_or(|home| chdir(home).is_err()) {
            chdir(self.cwd.as_c_str()).with_context(|| format!("cannot enter the working directory {path}"))?;
        }
        let cwd = getcwd().with_context(|| format!("the working directory {path} is not in the container"))?;
        ensure!(cwd.is_absolute(), "the working directory {path} is not in the container");
        Ok(())
    }

    /// What exec would hand on: signals that are ignored or blocked, and descriptors beyond those that the command gets. They
    /// close with it; until then an error can be told.
    fn inheritance(&self) -> Result<()> {
        sys::reset_signals();
        sys::close_on_exec_from(3 + self.passed).context("cannot close the caller's descriptors")
    }

    fn bounding(&self) -> Result<()> {
        for capability in caps::read(None, CapSet::Bounding).context("cannot read the bounding set")? {
            if !self.profile.bounding.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)
                    .with_context(|| format!("cannot drop {capability} from the bounding set"))?;
            }
        }
        Ok(())
    }

    /// The four sets of the thread. A user who is not root has lost them with its identity.
    fn capability_sets(&self) -> Result<()> {
        let failed = |set: &'static str| move || format!("cannot set the {set} capabilities");
        caps::clear(None, CapSet::Ambient).with_context(failed("ambient"))?;
        caps::clear(None, CapSet::Inheritable).with_context(failed("inheritable"))?;
        let held = caps::read(None, CapSet::Permitted).with_context(failed("permitted"))?;
        let within = |wanted: &CapsHashSet| wanted.intersection(&held).copied().collect::<CapsHashSet>();
        caps::set(None, CapSet::Effective, &within(&self.profile.effective)).with_context(failed("effective"))?;
        caps::set(None, CapSet::Permitted, &within(&self.profile.permitted)).with_context(failed("permitted"))?;
        Ok(())
    }

    fn filter(&self) -> Result<()> {
        self.profile.seccomp.load().context("cannot load the seccomp filter")
    }

    /// The command and its arguments. A shell that is called `-sh` knows that it is a login shell.
    fn command(&self, who: &Who) -> Result<(String, Vec<CString>)> {
        if let Some(command) = self.args.first() {
            return Ok((command.to_string_lossy().into_owned(), self.args.clone()));
        }
        let shell = who.entry.as_ref().map_or(SHELL, passwd::User::login_shell);
        let name = shell.rsplit('/').next().unwrap_or(shell);
        Ok((shell.to_owned(), vec![CString::new(format!("-{name}")).context("the login shell holds a NUL")?]))
    }

    /// The environment, completed by what passwd says of the user.
    fn environment(&self, who: &Who) -> Result<Vec<CString>> {
        let mut known = vec![("HOME", who.entry.as_ref().map_or("/", |user| &user.home))];
        if let Some(user) = &who.entry {
            known.extend([("SHELL", user.login_shell()), ("USER", &user.name), ("LOGNAME", &user.name)]);
        }
        let mut env = self.env.clone();
        if self.passed > 0 {
            // It believes in them only if they are meant for it, by the pid that it has inside.
            let listen = [format!("LISTEN_FDS={}", self.passed), format!("LISTEN_PID={}", getpid())];
            let listen: Vec<_> = listen.into_iter().map(CString::new).collect::<Result<_, _>>()?;
            listen.into_iter().for_each(|variable| set(&mut env, variable));
        }
        for (key, value) in known {
            if !env.iter().any(|entry| name(entry) == key.as_bytes()) {
                env.push(CString::new(format!("{key}={value}")).with_context(|| format!("{key} holds a NUL"))?);
            }
        }
        Ok(env)
    }
}

/// Executes a command, found along the PATH of its own environment. Returns only on failure.
fn execute(command: &str, args: &[CString], env: &[CString]) -> Status {
    let mut failure = Errno::ENOENT;
    for path in candidates(command, env) {
        let Err(error) = execve(&path, args, env);
        // Found but not executable tells more than not found.
        if !matches!(error, Errno::ENOENT | Errno::ENOTDIR) {
            failure = error;
        }
    }
    let code = if failure == Errno::ENOENT { 127 } else { 126 };
    Status { code, message: Some(format!("cannot execute {command}: {}", failure.desc())) }
}

/// Groups first, then gid, then uid: afterwards neither could be changed. Groups are always set, since the caller's would
/// remain (CVE-2022-2995), and the user's own is among them: otherwise a set-group-ID program would be out of it, and of
/// what is forbidden to it (CVE-2022-36109).
fn become_user(Identity { uid, gid, groups }: &Identity) -> Result<()> {
    let others = groups.iter().filter(|other| *other != gid);
    let groups: Vec<Gid> = [gid].into_iter().chain(others).copied().map(Gid::from_raw).collect();
    match setgroups(&groups) {
        // It is forbidden in a namespace of an ordinary user, who has none but his own there.
        Err(Errno::EPERM) if Procfs::open()?.read("self/setgroups")? == b"deny\n" => {}
        set => set.with_context(|| format!("cannot set the groups {groups:?}"))?,
    }
    let (user, group) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
    setresgid(group, group, group).with_context(|| format!("cannot become group {gid}"))?;
    setresuid(user, user, user).with_context(|| format!("cannot become user {uid}"))
}

/// The name of a variable.
fn name(entry: &CStr) -> &[u8] {
    entry.to_bytes().split(|b| *b == b'=').next().unwrap_or_default()
}

/// Sets a variable, in place of what was said of it before.
fn set(env: &mut Vec<CString>, variable: CString) {
    env.retain(|other| name(other) != name(&variable));
    env.push(variable);
}

/// Checks that each is `NAME=VALUE`. What is also a field of passwd(5) has no newline or colon: a program inside that
/// writes it there would write more users (CVE-2022-4318).
fn variables(entries: Vec<CString>) -> Result<Vec<CString>> {
    for entry in &entries {
        let (name, text) = (name(entry), entry.to_bytes());
        let shown = || entry.to_string_lossy();
        ensure!(!name.is_empty() && name.len() < text.len(), "bad variable {:?}: NAME=VALUE", shown());
        let is_field = [b"HOME".as_slice(), b"SHELL", b"USER", b"LOGNAME"].contains(&name);
        let separated = text.iter().any(|b| matches!(b, b'\n' | b':'));
        ensure!(!(is_field && separated), "bad variable {:?}: a newline or colon", shown());
    }
    Ok(entries)
}

/// Starts a command in a child: `fork` makes it and returns `None` in it, where `become_command` returns only on
/// failure. Returns once the command has been executed, or with what kept it from that.
pub fn start(
    fork: impl FnOnce() -> Result<Option<Child>>,
    become_command: impl FnOnce() -> Status,
) -> Result<Child, Status> {
    let attempt = || -> Result<Result<Child, Status>> {
        let (mut failure, report) = pipe().context("cannot make a pipe")?;
        // Clear of the standard streams, which a child may be about to be given.
        let mut report = File::from(fcntl_dupfd_cloexec(report, 3).context("cannot make a pipe")?);
        let Some(child) = fork().context("cannot make a process")? else {
            drop(failure);
            let status = become_command();
            let _ = report.write_all(&serde_json::to_vec(&status).unwrap_or_default());
            sys::exit(status.code.into());
        };
        drop(report);
        // Exec closes the pipe; what comes before that is why there was none.
        let mut bytes = Vec::new();
        failure.read_to_end(&mut bytes).context("cannot hear from the command")?;
        if bytes.is_empty() {
            return Ok(Ok(child));
        }
        Ok(Err(serde_json::from_slice(&bytes).context("cannot hear from the command")?))
    };
    attempt().unwrap_or_else(|error| Err(Status::own(error)))
}

/// Where a command may be: itself if it has a slash, else below each directory of PATH (execvp(3)).
fn candidates(command: &str, env: &[CString]) -> Vec<CString> {
    let directories = if command.contains('/') {
        vec![String::new()]
    } else {
        let path = env.iter().find_map(|entry| entry.to_str().ok()?.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
        path.split(':').filter(|directory| !directory.is_empty()).map(|directory| format!("{directory}/")).collect()
    };
    directories.into_iter().filter_map(|directory| CString::new(directory + command).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confinement(text: &str) -> Result<Confinement> {
        Confinement::new(&Document::parse(text.as_bytes())?)
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            r#"{"process":{"capabilities":{"bounding":["CAP_NO_SUCH"]}}}"#,
            r#"{"process":{"capabilities":{"ambient":["CAP_CHOWN"]}}}"#,
            r#"{"process":{"capabilities":{"inheritable":["CAP_CHOWN"]}}}"#,
            r#"{"process":{"rlimits":[{"type":"RLIMIT_X","soft":1,"hard":1}]}}"#,
            r#"{"process":{"args":["a\u0000b"]}}"#,
            r#"{"process":{"user":{"uid":-1}}}"#,
            r#"{"process":{"user":{"uid":4294967296}}}"#,
            r#"{"process":{"env":["A"]}}"#,
            r#"{"process":{"env":["=A"]}}"#,
            r#"{"process":{"env":["HOME=/\nr::0:0::/:"]}}"#,
            r#"{"process":{"env":["USER=a:b"]}}"#,
        ] {
            assert!(confinement(bad).is_err(), "{bad}");
        }
        assert!(confinement("{}").expect("empty").profile.bounding.is_empty(), "what is not granted is not had");
    }

    #[test]
    fn the_last_that_is_said_of_a_variable_holds_and_passwd_completes_it() {
        let entry = passwd::find(b"w:x:33:33::/home/w:\n", 33);
        let who = Who { identity: Identity::default(), entry };
        let confinement = confinement(r#"{"process":{"env":["A=1","B=2","USER=u"]}}"#).expect("confinement");
        let env = ["B=x:y", "C=", "B=3=4"].map(OsString::from).to_vec();
        let confinement = confinement.with_command(Command { env, ..Command::default() }).expect("command");
        let shown = |list: Vec<CString>| list.iter().map(|c| c.to_string_lossy().into_owned()).collect::<Vec<_>>();
        let expected = ["A=1", "USER=u", "C=", "B=3=4", "HOME=/home/w", "SHELL=/bin/sh", "LOGNAME=w"];
        assert_eq!(shown(confinement.environment(&who).expect("environment")), expected);
        let (shell, args) = confinement.command(&who).expect("a shell");
        assert_eq!((shell.as_str(), shown(args)), ("/bin/sh", vec!["-sh".to_owned()]));
    }

    #[test]
    fn a_command_is_looked_for_along_its_own_path() {
        let env = [CString::new("PATH=/a::/b").expect("env")];
        let found =
            |command| candidates(command, &env).iter().map(|c| c.to_string_lossy().into_owned()).collect::<Vec<_>>();
        assert_eq!(found("x"), ["/a/x", "/b/x"]);
        assert_eq!(found("./x"), ["./x"]);
    }
}
