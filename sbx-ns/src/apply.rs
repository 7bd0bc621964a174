//! Makes the namespaces and their holder, finds them again, and ends them.

use crate::edit::Plan;
use crate::holder::{self, Bond};
use anyhow::{Context, Result, bail, ensure};
use caps::CapSet;
use caps::errors::CapsError;
use nix::fcntl::{AtFlags, OFlag};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chdir, execveat, pipe2, sethostname};
use sbx::cgroup::{Cgroups, Entry};
use sbx::ids::Ids;
use sbx::lifeline::Lifeline;
use sbx::process::{Live, Recorded};
use sbx::procfs::Procfs;
use sbx::{Document, Name, namespace, program, store, sys, tool};
use serde_json::json;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

/// How long a killed holder may take to be gone: the kernel ends all processes of its namespace first.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// Claims ids for the user namespace of the document, if it has one, and fills them in.
pub fn alloc(doc: &mut Document, act: bool) -> Result<()> {
    let name = doc.name()?;
    Ids::claim(doc, &name, act)?.map_or(Ok(()), |ids| ids.fill(doc))
}

/// How long a container is there, and who knows of it.
#[derive(Debug)]
pub enum Life {
    /// Until it is removed, as its running document is kept.
    Kept,
    /// That, and as long as somebody has the other end of a pipe.
    KeptWhile(Lifeline),
    /// As long as somebody has it: nothing of it is kept, and so nothing has to be removed.
    While(Lifeline),
}

/// What is claimed for a container until somebody gives it back, beside its ids.
const CLAIMED: [&str; 2] = ["process.selinuxLabel", "sbx.net"];

/// A holder that is on its way, and ends unless it is released.
#[derive(Debug)]
pub struct Unreleased {
    name: Name,
    status: File,
    is_ready: bool,
    go: File,
    /// What it runs from: the kernel makes wait who is the last to close a mount that is attached nowhere.
    _program: OwnedFd,
}

impl Unreleased {
    /// Waits until it has come so far, or says why it has not.
    fn hear(&mut self, word: &str) -> Result<()> {
        let mut said = String::new();
        let heard = (&self.status).take(word.len() as u64).read_to_string(&mut said);
        if said != word {
            heard.and_then(|_| self.status.read_to_string(&mut said)).context("cannot hear from the holder")?;
            let why = if said.is_empty() { "it ended without a word" } else { &said };
            bail!("cannot start the holder of {}: {why}", self.name);
        }
        self.is_ready = word == holder::READY;
        Ok(())
    }

    /// Lets it be.
    pub fn release(mut self) -> Result<()> {
        if !self.is_ready {
            // Nobody waits for this one.
            let _ = sys::run_in_batch();
            self.hear(holder::READY)?;
        }
        self.go.write_all(b"!").context("cannot release the holder")
    }
}

/// Makes the namespaces and starts their holder; the running document is complete before the holder is released. What is
/// kept is kept once that holds; of what is not, the next step can make use meanwhile.
pub fn create(doc: &mut Document, life: Life, act: bool) -> Result<Option<Unreleased>> {
    let name = doc.name()?;
    let plan = Plan::of(doc)?;
    let cgroups: Cgroups = doc.read("sbx.state.cgroups")?.unwrap_or_default();
    let is_kept = !matches!(life, Life::While(_));
    if !is_kept {
        let claimed = CLAIMED.into_iter().find(|field| doc.get(field).is_some());
        if let Some(claimed) = claimed.or(plan.ids.map(|_| "linux.uidMappings")) {
            bail!("--unlisted: {claimed} has to be given back, and nobody would");
        }
    }
    if is_kept && holder_of(&name)?.is_some() {
        bail!("container {name} has a holder already");
    }
    if !act {
        return Ok(None);
    }
    if let Some(ids) = plan.ids {
        ids.verify(&name)?;
    }
    let start = Start {
        joined: plan.joined.iter().map(open_namespace).collect::<Result<_>>()?,
        procfs: plan.new.contains(CloneFlags::CLONE_NEWUSER).then(Procfs::open).transpose()?,
        cgroup: Entry::open(&cgroups.payload)?,
        plan,
        bond: bond(&name, life)?,
    };
    let program = program::read_only()?;
    let (status_out, status_in) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    let (go_out, go_in) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    // What somebody else has made is out of reach from a user namespace.
    start.join(|flag| flag != CloneFlags::CLONE_NEWCGROUP)?;
    // A cgroup namespace's root is the cgroup in which it is made: that one waits until the child has entered its own.
    let flags = start.plan.new - CloneFlags::CLONE_NEWCGROUP;
    let Some(child) = sys::clone3(flags.bits(), start.cgroup.unified()).context("cannot make namespaces")? else {
        drop((status_out, go_in));
        let Err(error) = start.become_holder(&name, &program, &go_out, &status_in);
        let _ = write!(File::from(status_in), "{error:#}");
        sys::exit(1);
    };
    let (status, go) = (File::from(status_out), File::from(go_in));
    let mut holder = Unreleased { name: name.clone(), status, is_ready: false, go, _program: program };
    if let Some(procfs) = &start.procfs {
        start.map_ids(procfs, child.pid).context("cannot map the ids")?;
        holder.go.write_all(b"!").context("cannot tell the holder")?;
    }
    drop((status_in, go_out, start));
    // While the holder starts.
    doc.set("sbx.state.holder", json!(Recorded::now(child.pid)?))?;
    if !is_kept {
        doc.set(sbx::holder::UNLISTED, true)?;
    }
    let new = is_kept.then(|| write(&name, doc)).transpose()?;
    holder.hear(holder::ENTERED)?;
    if let Some(new) = new {
        holder.hear(holder::READY)?;
        let path = store::running(&name);
        fs::rename(new, &path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Some(holder))
}

/// All that the child needs on its way to become the holder.
struct Start {
    plan: Plan,
    joined: Vec<(CloneFlags, OwnedFd)>,
    /// The maker's, in which the child finds itself too, if there is to be a user namespace.
    procfs: Option<Procfs>,
    cgroup: Entry,
    bond: Bond,
}

impl Start {
    /// In the child: completes the namespaces and executes the holder.
    fn become_holder(&self, name: &Name, program: &OwnedFd, go: &OwnedFd, status: &OwnedFd) -> Result<Infallible> {
        self.enter()?;
        if let Some(procfs) = &self.procfs {
            self.become_somebody(procfs, go)?;
        }
        // The next step reads until nobody has the document's pipe any more. Not closed: what a program finds closed there it
        // opens, by a path that may be the container's by then.
        sys::place(go, 1).context("cannot let go of stdout")?;
        rustix::io::write(status, holder::ENTERED.as_bytes()).context("cannot report")?;
        let program = holder::aside(program)?;
        holder::descriptors(&self.bond, go, status).context("cannot place the holder's descriptors")?;
        let args = [c"sbx-ns".to_owned(), CString::new(self.bond.verb())?, CString::new(name.as_str())?];
        // A holder has no environment; nor has what it becomes, but for what the document gives it.
        let none: [CString; 0] = [];
        execveat(&program, c"", &args, &none, AtFlags::AT_EMPTY_PATH).context("cannot execute the holder")
    }

    /// Joins those of the namespaces that are to be joined.
    fn join(&self, which: impl Fn(CloneFlags) -> bool) -> Result<()> {
        for (flag, namespace) in self.joined.iter().filter(|(flag, _)| which(*flag)) {
            setns(namespace, *flag).context("cannot join a namespace")?;
        }
        Ok(())
    }

    /// Says which ids the user namespace of a process has.
    fn map_ids(&self, procfs: &Procfs, pid: i32) -> Result<()> {
        if let Some(ids) = self.plan.ids {
            let map = |file, first| procfs.write(format!("{pid}/{file}"), Ids::map(first, ids.size).as_bytes());
            map("uid_map", ids.uid).and_then(|()| map("gid_map", ids.gid))?;
        }
        self.plan.maps.as_ref().map_or(Ok(()), |maps| maps.write(procfs, pid))
    }

    /// Becomes root of the user namespace, once its maker has said which ids are its own; in that of an ordinary user
    /// he is somebody by then.
    fn become_somebody(&self, procfs: &Procfs, go: &OwnedFd) -> Result<()> {
        ensure!(rustix::io::read(go, &mut [0])? == 1, "its maker is gone");
        // None can be made inside, by whatever way: a kernel's bug has more to offer there (CVE-2022-0185).
        procfs.write("sys/user/max_user_namespaces", b"0").context("cannot forbid user namespaces")?;
        if self.plan.maps.is_some() { keep_capabilities() } else { namespace::become_root() }
    }

    fn enter(&self) -> Result<()> {
        self.cgroup.join_v1()?;
        if self.plan.new.contains(CloneFlags::CLONE_NEWCGROUP) {
            unshare(CloneFlags::CLONE_NEWCGROUP).context("cannot make a cgroup namespace")?;
        }
        self.join(|flag| flag == CloneFlags::CLONE_NEWCGROUP)?;
        // From here on no mount goes out to the host, and none of the host's comes in.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("cannot make the mounts private")?;
        // The caller's directory would stay in reach, outside of whatever root the container is given.
        chdir("/").context("cannot leave the working directory")?;
        if self.plan.new.contains(CloneFlags::CLONE_NEWNET) {
            sys::set_loopback_up().context("cannot set the loopback interface up")?;
        }
        if let Some(hostname) = &self.plan.hostname {
            sethostname(hostname).with_context(|| format!("cannot set the host name {hostname}"))?;
        }
        Ok(())
    }
}

/// Has the holder keep over exec what whoever makes a user namespace can do in it, also if that is not root inside
/// (capabilities(7)). It hands on nothing: confinement clears these sets.
fn keep_capabilities() -> Result<()> {
    let keep = || -> Result<(), CapsError> {
        let all = caps::read(None, CapSet::Permitted)?;
        caps::set(None, CapSet::Inheritable, &all)?;
        caps::set(None, CapSet::Ambient, &all)
    };
    keep().context("cannot keep the capabilities")
}

/// The running document of a container that has a holder.
pub fn show(name: &Name) -> Result<Document> {
    match holder_of(name)? {
        Some((doc, _)) => Ok(doc),
        None => bail!("container {name} is not running"),
    }
}

/// All containers that have a holder, as a JSON array. What cannot be read is left over, and not listed.
pub fn list() -> Result<Vec<u8>> {
    let directory = store::runtime_dir();
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        entries => Some(entries.with_context(|| format!("cannot read {}", directory.display()))?),
    };
    let names =
        entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Name>().ok());
    let mut names: Vec<Name> = names.collect();
    names.sort();
    let containers: Vec<_> = names
        .iter()
        .filter_map(|name| {
            let (_, holder) = holder_of(name).ok()??;
            let status = if store::ready(name).exists() { "running" } else { "created" };
            Some(json!({ "name": name.as_str(), "pid": holder.pid, "status": status }))
        })
        .collect();
    Ok(format!("{}\n", json!(containers)).into_bytes())
}

/// Ends the holder of `name`, and with it every process of the container, and removes what was kept for this boot.
pub fn remove(name: &Name) -> Result<()> {
    let directory = store::runtime(name);
    tool::all([
        end(name),
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", directory.display()))
            }
            _ => Ok(()),
        },
    ])
}

fn end(name: &Name) -> Result<()> {
    let Some((_, holder)) = holder_of(name)? else { return Ok(()) };
    holder.signal(nix::libc::SIGKILL)?;
    if !holder.wait(Some(KILL_TIMEOUT))? {
        bail!("the holder of {name}, process {}, does not end", holder.pid);
    }
    Ok(())
}

/// The running document of `name` and its holder, if that is alive.
fn holder_of(name: &Name) -> Result<Option<(Document, Live)>> {
    let Some(doc) = store::kept(name)? else { return Ok(None) };
    let holder = sbx::holder::of(&doc).with_context(|| store::running(name).display().to_string())?;
    Ok(holder.map(|holder| (doc, holder)))
}

/// Makes what a holder waits for, and the runtime directory, empty, if something is kept.
fn bond(name: &Name, life: Life) -> Result<Bond> {
    match life {
        Life::Kept => {
            make_directory(name)?;
            let path = store::control(name);
            let listener = UnixListener::bind(&path);
            Ok(Bond::Orders(listener.with_context(|| format!("cannot make the socket {}", path.display()))?))
        }
        Life::KeptWhile(end) => make_directory(name).map(|()| Bond::End(end)),
        Life::While(end) => Ok(Bond::End(end)),
    }
}

fn make_directory(name: &Name) -> Result<()> {
    remove(name)?;
    let directory = store::runtime(name);
    store::make(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    store::check_owner(&directory.canonicalize()?)
}

/// Writes the running document down beside its place, to which it is moved when it is whole.
fn write(name: &Name, doc: &Document) -> Result<PathBuf> {
    let new = store::runtime(name).join("document.new");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    file.and_then(|mut file| file.write_all(&doc.to_line()))
        .with_context(|| format!("cannot write {}", new.display()))?;
    Ok(new)
}

fn open_namespace((flag, path): &(CloneFlags, PathBuf)) -> Result<(CloneFlags, OwnedFd)> {
    let file = File::open(path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
    Ok((*flag, file.into()))
}
