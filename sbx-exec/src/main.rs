//! sbx-exec: runs a command in a container, boots its init, stops it.

mod after;
mod boot;
mod enter;
mod forward;
mod pid_file;
mod profile;
mod signal;
mod stop;
mod streams;
mod terminal;

use crate::pid_file::PidFile;
use crate::streams::Tty;
use anyhow::{Context, Result, bail, ensure};
use lexopt::Parser;
use sbx::confine::{Command, Confinement, Profile};
use sbx::process::{self, Live, readable};
use sbx::tool::{self, Argument, Descriptor, Filter, Status, Tool, Usage};
use sbx::{Document, host, program, sys};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
sbx-exec: runs a command in a container, boots its init, stops it

usage: sbx-exec profile [--name NAME] [OPTION...] [BASE]   document in, document out
       sbx-exec run [OPTION...] [--] [COMMAND [ARG...]]
       sbx-exec boot [--document FD] [--timeout SECONDS] [--wait]
       sbx-exec stop [--document FD] [--timeout SECONDS]
       sbx-exec after [--name NAME] [--] COMMAND [ARG...]     document out

profile  fills in the confinement, where the document has none: 11 capabilities, no_new_privs,
         limits, a seccomp allow-list; with BASE, in the place of what it has: default; strict, without
         capabilities and with fewer system calls; or that of a JSON file
run      runs a command in the container of a running document, confined like the container,
         with the caller's standard streams, or a terminal of its own, from which ^]^] disconnects;
         without a command, the user's login shell; with options of profile it does first what that
         does, for this command
boot     has the container's holder become the document's command (its init for a unit's
         container), and returns when it is ready: when its units are active; if it runs already,
         only tells the service manager (sd_notify)
after    waits for the end of standard input, and then executes the command, which cleans up after all
         who had the other end of the pipe, however they end; with a name it begins the document of the
         steps behind it, once nothing can end it any more
stop     sends the stop signal and waits for the container's end; kills it when that takes too long

run, boot and stop end a pipe: they print no document. run, and boot --wait, exit with the status of
the command, 128+N when signal N ended it, 125 for a failure of their own, 126 when the command
cannot be executed, 127 when it is not found.

  --name NAME        start a document instead of reading one
  --profile BASE     the same as the operand of profile, for run
  --cap [+|-]NAME    add or drop a capability, or all; the default filter follows; may be repeated
  --seccomp FILTER   default, unconfined, or a JSON file as OCI runtimes and Docker have it
  --rlimit TYPE=SOFT[:HARD]
                     a resource limit, such as nofile=1024:4096; may be repeated
  --no-new-privs on|off
  --document FD      read the document from this descriptor, so that stdin is the command's
  --user USER        who executes the command: USER[:GROUP], each a number or a name inside
  --cwd DIRECTORY    where
  --env NAME=VALUE   a variable of its environment; may be repeated
  --preserve-fds N   it gets the N descriptors from 3 on too, as those that it listens on
  --pid-file FILE    has its pid, as the caller sees it, as long as it runs
  --alone            it is the first in a container in which nobody could look at this process
  --tty[=auto|on|off]
                     whether it gets a terminal: if stdin, stdout and stderr all are one (auto)
  --timeout SECONDS  how long boot (90) and stop (90) wait
  --wait             stay until the command ends; if boot ends first, so does the container
  --help, --version
";

#[global_allocator]
static MEMORY: sbx::Memory = sbx::Memory;

fn main() -> ExitCode {
    tool::main(&Tool { name: "sbx-exec", help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "profile" => fill_in(options),
        // The command's own status may be anything from 0 on: whatever is not the command's is 125.
        "run" => run_command(options).map_err(|error| Status::own(error).into()),
        "boot" => boot_init(options),
        "stop" => stop_container(options),
        "after" => after_others(options),
        _ => Err(tool::no_verb(verb)),
    }
}

/// Takes an option, with its value, if it is one of a profile's.
fn take(wish: &mut Option<profile::Wish>, arg: &Argument, options: &mut Parser) -> Result<bool> {
    match arg.long() {
        "profile" => wish.get_or_insert_default().base = Some(tool::value(options)?),
        "cap" => wish.get_or_insert_default().capabilities.push(tool::value(options)?),
        "seccomp" => wish.get_or_insert_default().seccomp = Some(tool::value(options)?),
        "rlimit" => wish.get_or_insert_default().limits.push(tool::value(options)?),
        "no-new-privs" => wish.get_or_insert_default().no_new_privs = Some(tool::value(options)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn fill_in(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let mut wish = None;
    while let Some(arg) = tool::next(options)? {
        match arg {
            Argument::Operand(base) if wish.as_ref().is_none_or(|wish: &profile::Wish| wish.base.is_none()) => {
                wish.get_or_insert_default().base = Some(tool::parsed(base)?);
            }
            arg if take(&mut wish, &arg, options)? => {}
            arg => filter.take(arg, options)?,
        }
    }
    filter.run(|doc, _| {
        doc.name()?;
        profile::fill(doc, &wish.unwrap_or_default())?;
        // As the routine that enforces it will.
        Confinement::new(doc).map(drop)
    })
}

fn run_command(options: &mut Parser) -> Result<()> {
    let mut source = Source::default();
    let mut command = Command::default();
    let mut wish = None;
    let mut tty = Tty::Auto;
    let mut pid_file = None;
    let mut is_alone = false;
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "user" => command.user = Some(tool::value(options)?),
            "cwd" => command.cwd = Some(directory(options.value()?)?),
            "alone" => is_alone = true,
            "pid-file" => pid_file = Some(options.value()?),
            "preserve-fds" => command.passed = tool::value::<Passed>(options)?.0,
            "tty" => tty = options.optional_value().map_or(Ok(Tty::On), tool::parsed)?,
            "env" => command.env.push(options.value()?),
            _ if take(&mut wish, &arg, options)? => {}
            _ => match arg {
                Argument::Operand(program) => command.args = tool::command(program, options)?,
                arg => source.take(arg, options)?,
            },
        }
    }
    if !is_alone {
        program::shield()?;
    }
    source.check_passed(&mut command)?;
    let incoming = source.open()?;
    incoming.give_way()?;
    // While the steps before this one make the document, if nothing of that is in it.
    process::boot_id()?;
    let profile = wish.take_if(|wish| wish.base.is_some()).map(|wish| profile::alone(&wish)).transpose()?;
    let mut running = incoming.running()?;
    let pid_file = pid_file.map(|path| PidFile::create(Path::new(&path))).transpose()?;
    wish.map_or(Ok(()), |wish| profile::fill(&mut running.doc, &wish))?;
    let profile = profile.map_or_else(|| Profile::of(&running.doc), Ok)?;
    let confinement = Confinement::by(profile, &running.doc)?;
    sbx::holder::settle(&running.doc, &running.holder)?;
    Err(enter::run(&running, confinement, command, tty, pid_file, None)?.into())
}

/// An absolute path: there is none inside that another could be relative to.
fn directory(path: OsString) -> Result<OsString> {
    if Path::new(&path).is_absolute() {
        return Ok(path);
    }
    Err(Usage(format!("bad directory {path:?}: an absolute path")).into())
}

fn boot_init(options: &mut Parser) -> Result<()> {
    let mut source = Source::default();
    let mut timeout = Seconds::DEFAULT;
    let mut wait = false;
    let mut boot = || -> Result<()> {
        program::shield()?;
        while let Some(arg) = tool::next(options)? {
            match arg.long() {
                "timeout" => timeout = tool::value(options)?,
                "wait" => wait = true,
                _ => source.take(arg, options)?,
            }
        }
        boot::boot(&source.open()?.running()?, timeout.0, wait)
    };
    let outcome = boot();
    if wait { outcome.map_err(|error| Status::own(error).into()) } else { outcome }
}

fn after_others(options: &mut Parser) -> Result<()> {
    let mut name = None;
    while let Some(arg) = tool::next(options)? {
        match arg {
            Argument::Operand(program) => {
                let Err(error) = after::after(name.as_ref(), tool::command(program, options)?);
                return Err(error);
            }
            arg if arg.long() == "name" => name = Some(tool::value(options)?),
            arg => return Err(arg.unexpected()),
        }
    }
    Err(Usage("a command is missing".into()).into())
}

fn stop_container(options: &mut Parser) -> Result<()> {
    let mut source = Source::default();
    let mut timeout = Seconds::DEFAULT;
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "timeout" => timeout = tool::value(options)?,
            _ => source.take(arg, options)?,
        }
    }
    match source.open()?.find()? {
        (_, None) => Ok(()),
        (doc, Some(holder)) => stop::stop(&Running { doc, holder }, timeout.0),
    }
}

/// A running document and its holder.
pub struct Running {
    doc: Document,
    holder: Live,
}

impl Running {
    /// The document with more variables in its environment.
    fn with_env(&self, variables: impl IntoIterator<Item = String>) -> Result<Document> {
        let mut doc = self.doc.clone();
        let mut env: Vec<String> = doc.read("process.env")?.unwrap_or_default();
        env.extend(variables);
        doc.set("process.env", env)?;
        Ok(doc)
    }
}

/// Where the running document comes from: stdin, or a descriptor that leaves stdin to the command.
#[derive(Debug, Default)]
struct Source(Option<RawFd>);

impl Source {
    fn take(&mut self, arg: Argument, options: &mut Parser) -> Result<()> {
        match arg.long() {
            "document" => self.0 = Some(tool::value::<Descriptor>(options)?.0),
            _ => return Err(arg.unexpected()),
        }
        Ok(())
    }

    /// Makes sure that there are all descriptors which the command gets, and that the document is on none of them, so that
    /// from here on no other gets their numbers. Their names are the caller's to give (sd_listen_fds_with_names(3)).
    fn check_passed(&self, command: &mut Command) -> Result<()> {
        for number in (3..).take(command.passed as usize) {
            ensure!(self.0 != Some(number), "--preserve-fds {}: descriptor {number} is the document", command.passed);
            sys::check_open(number)
                .with_context(|| format!("--preserve-fds {}: descriptor {number}", command.passed))?;
        }
        if let Some(names) = std::env::var_os("LISTEN_FDNAMES").filter(|_| command.passed > 0) {
            command.env.insert(0, [OsStr::new("LISTEN_FDNAMES="), &names].into_iter().collect());
        }
        Ok(())
    }

    /// What the document is read from. This program is not executed again from here on.
    fn open(&self) -> Result<Incoming> {
        let open = |number| sys::inherited(number).with_context(|| format!("--document {number}"));
        Ok(Incoming(self.0.map(open).transpose()?.map(File::from)))
    }
}

/// How long a step leaves the processors to those before it, whatever it could do meanwhile: less than they take.
const GIVEN_WAY: Duration = Duration::from_micros(1500);

/// A document that may be yet to be written: from a descriptor, or from stdin.
struct Incoming(Option<File>);

impl Incoming {
    /// Waits until somebody has begun to write it, or for a while.
    fn give_way(&self) -> Result<()> {
        let stdin = io::stdin();
        let fd = self.0.as_ref().map_or(stdin.as_fd(), File::as_fd);
        readable([fd], Some(GIVEN_WAY)).map(drop).context("cannot wait for the document")
    }

    /// The document of a container that runs, and its holder.
    fn running(self) -> Result<Running> {
        match self.find()? {
            (doc, Some(holder)) => Ok(Running { doc, holder }),
            (doc, None) => bail!("container {} is not running", doc.name()?),
        }
    }

    /// The document, and the holder if it still lives.
    fn find(self) -> Result<(Document, Option<Live>)> {
        let mut doc = match self.0 {
            None => tool::read_document()?,
            Some(mut file) => {
                let mut bytes = Vec::with_capacity(Document::USUAL);
                let number = file.as_raw_fd();
                file.read_to_end(&mut bytes).with_context(|| format!("cannot read descriptor {number}"))?;
                tool::parse(&bytes)?
            }
        };
        doc.name()?;
        let holder = sbx::holder::of(&doc)?;
        if !host::runs_selinux() {
            // They stay in the definition for the day when SELinux is on.
            doc.unset("process.selinuxLabel");
            doc.unset("linux.mountLabel");
        }
        Ok((doc, holder))
    }
}

/// How many descriptors a command gets.
struct Passed(u32);

impl std::str::FromStr for Passed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number <= 1024 && text.bytes().all(|b| b.is_ascii_digit()));
        number.map(Self).ok_or_else(|| format!("bad number of descriptors {text:?}: 0 to 1024"))
    }
}

/// How long to wait: a number of seconds, at least one.
#[derive(Clone, Copy)]
struct Seconds(Duration);

impl Seconds {
    const DEFAULT: Self = Self(Duration::from_secs(90));
}

impl std::str::FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let seconds = text.parse().ok().filter(|seconds| digits && (1..=86_400).contains(seconds));
        seconds
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| format!("bad number of seconds {text:?}: 1 to 86400"))
    }
}
