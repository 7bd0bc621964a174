//! The contract of every tool (docs/contract.md): one document in, one document out, or one line that says why not.

use crate::{Document, Name, sys};
use anyhow::{Context, Error, Result, anyhow, ensure};
use lexopt::{Arg, Parser};
use serde::{Deserialize, Serialize};
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::str::FromStr;

/// What one tool is: its name, its help, and the function that carries out a verb.
#[derive(Debug)]
pub struct Tool {
    /// The name on the command line and before every message.
    pub name: &'static str,
    /// What `--help` prints.
    pub help: &'static str,
    /// Carries out the verb with what follows it on the command line.
    pub run: fn(verb: &str, options: &mut Parser) -> Result<()>,
}

/// Wrong usage: exit 2.
#[derive(Debug)]
pub struct Usage(pub String);

/// An earlier step of the pipe failed and has spoken: exit 1 without a word.
#[derive(Debug)]
struct Silent;

/// An exit status of its own (sbx-exec's 125 to 127, or a command's), with or without a message.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The exit status.
    pub code: u8,
    /// The message, if there is something to say.
    pub message: Option<String>,
}

impl Status {
    /// The exit status of a failure of the tool itself, not of the command that it was to run, as for env(1).
    pub const OWN: u8 = 125;

    /// What an error means: 2 for wrong usage, else 1, unless it has a status of its own.
    pub fn of(error: Error) -> Self {
        let (code, message) = match error.downcast::<Self>() {
            Ok(status) => return status,
            Err(error) if error.is::<Silent>() => (1, None),
            // Not `{:#}`: lexopt prints its source itself.
            Err(error) if error.is::<lexopt::Error>() => (2, Some(error.to_string())),
            Err(error) if error.is::<Usage>() => (2, Some(error.to_string())),
            Err(error) => (1, Some(format!("{error:#}"))),
        };
        Self { code, message }
    }

    /// A failure of the tool itself. An error that has a status of its own keeps it.
    pub fn own(error: impl Into<Error>) -> Self {
        error.into().downcast().unwrap_or_else(|error| Self { code: Self::OWN, ..Self::of(error) })
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or_default())
    }
}

impl std::error::Error for Usage {}
impl std::error::Error for Silent {}
impl std::error::Error for Status {}

/// Runs a tool: `--help`, `--version`, the verb; prints an error and turns it into the exit status.
pub fn main(tool: &Tool) -> ExitCode {
    match run(tool) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let status = Status::of(error);
            if let Some(message) = status.message {
                say(tool.name, &message);
            }
            ExitCode::from(status.code)
        }
    }
}

fn run(tool: &Tool) -> Result<()> {
    // It believes its environment and its standard streams, which would be those of an attacker (CVE-2016-8659).
    ensure!(!sys::is_secure(), "refuses to run with rights that its caller has not: it must not be set-user-ID");
    sys::reset_inherited();
    let mut parser = Parser::from_env();
    match parser.next()? {
        Some(Arg::Long("help") | Arg::Short('h')) => print(tool.help.as_bytes()),
        Some(Arg::Long("version") | Arg::Short('V')) => {
            print(format!("{} {}\n", tool.name, env!("CARGO_PKG_VERSION")).as_bytes())
        }
        Some(Arg::Value(verb)) => match verb.to_str() {
            Some(verb) => (tool.run)(verb, &mut parser),
            None => Err(no_verb(&verb.to_string_lossy())),
        },
        Some(arg) => Err(arg.unexpected().into()),
        None => Err(Usage(format!("a verb is missing: see {} --help", tool.name)).into()),
    }
}

/// The error for a verb that the tool does not have.
pub fn no_verb(verb: &str) -> Error {
    Usage(format!("no verb {verb:?}: see --help")).into()
}

/// Says one line on stderr. Control characters are escaped: a name or a path cannot forge a second line.
pub fn say(tool: &str, message: &str) {
    let line: String =
        message.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    // Nobody can be told that stderr is gone.
    let _ = writeln!(io::stderr(), "{tool}: {line}");
}

/// Says something that is worth knowing and no failure: to people, who look at a terminal or at the journal of a unit,
/// not to scripts, for which it is in the document.
pub fn note(tool: &str, message: &str) {
    if io::stderr().is_terminal() || is_journal() {
        say(tool, message);
    }
}

/// Whether stderr is the stream of a unit to the journal (JOURNAL_STREAM in systemd.exec(5)).
fn is_journal() -> bool {
    let stderr = rustix::fs::fstat(io::stderr()).ok();
    stderr.is_some_and(|stat| {
        env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
    })
}

/// Writes to stdout and makes sure that it arrived (`/dev/full`).
pub fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// What a write to stdout means. When nobody reads any more, a later step of the pipe failed and has spoken: the status is
/// that of a program which SIGPIPE has ended.
pub fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Status { code: 141, message: None }.into()),
        result => result.context("cannot write to stdout"),
    }
}

/// All of stdin as one document. Refuses a terminal; fails silently when an earlier step left it empty.
pub fn read_document() -> Result<Document> {
    let mut stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Usage("stdin is a terminal: pipe a document in".into()).into());
    }
    let mut bytes = Vec::with_capacity(Document::USUAL);
    stdin.read_to_end(&mut bytes).context("cannot read stdin")?;
    parse(&bytes)
}

/// A document from bytes, where no bytes mean that an earlier step failed and has spoken.
pub fn parse(bytes: &[u8]) -> Result<Document> {
    if bytes.iter().all(u8::is_ascii_whitespace) { Err(Silent.into()) } else { Document::parse(bytes) }
}

/// One argument of a verb. The tools have long options only.
#[derive(Debug)]
pub enum Argument {
    /// `--name`, without its dashes.
    Long(String),
    /// What is not an option.
    Operand(OsString),
}

impl Argument {
    /// The option's name; empty for an operand.
    pub fn long(&self) -> &str {
        match self {
            Self::Long(name) => name,
            Self::Operand(_) => "",
        }
    }

    /// The error for an argument that the verb does not take.
    pub fn unexpected(self) -> Error {
        match self {
            Self::Long(name) => Arg::Long(&name).unexpected().into(),
            Self::Operand(value) => Arg::Value(value).unexpected().into(),
        }
    }

    /// An operand, parsed; an option that the verb does not know, or a value that does not parse, is wrong usage.
    pub fn operand<T: FromStr<Err: fmt::Display>>(self) -> Result<T> {
        match self {
            Self::Operand(value) => parsed(value),
            Self::Long(_) => Err(self.unexpected()),
        }
    }
}

/// The next argument.
pub fn next(parser: &mut Parser) -> Result<Option<Argument>> {
    Ok(match parser.next()? {
        None => None,
        Some(Arg::Long(name)) => Some(Argument::Long(name.to_owned())),
        Some(Arg::Value(value)) => Some(Argument::Operand(value)),
        Some(arg) => return Err(arg.unexpected().into()),
    })
}

/// The value of the option that came last, parsed; a value that does not parse is wrong usage.
pub fn value<T: FromStr<Err: fmt::Display>>(parser: &mut Parser) -> Result<T> {
    parsed(parser.value()?)
}

/// A word of the command line, parsed; one that does not parse is wrong usage.
pub fn parsed<T: FromStr<Err: fmt::Display>>(value: OsString) -> Result<T> {
    let text = value.into_string().map_err(|value| Usage(format!("{value:?} is not UTF-8")))?;
    text.parse().map_err(|error: T::Err| Usage(error.to_string()).into())
}

/// The command that begins with an operand: whatever follows is its own.
pub fn command(program: OsString, parser: &mut Parser) -> Result<Vec<OsString>> {
    Ok([program].into_iter().chain(parser.raw_args()?).collect())
}

/// The one NAME that a verb such as `remove` takes, and nothing else.
pub fn only_name(parser: &mut Parser) -> Result<Name> {
    name_and(parser, &mut [])
}

/// The one NAME that a verb takes, and switches of its own; those that are there are set.
pub fn name_and(parser: &mut Parser, switches: &mut [(&str, &mut bool)]) -> Result<Name> {
    let mut name = None;
    while let Some(arg) = next(parser)? {
        let switch = switches.iter_mut().find(|(switch, _)| *switch == arg.long());
        match (switch, arg) {
            (Some((_, set)), _) => **set = true,
            (None, Argument::Operand(value)) if name.is_none() => name = Some(Argument::Operand(value).operand()?),
            (None, arg) => return Err(arg.unexpected()),
        }
    }
    name.ok_or_else(|| Usage("NAME is missing".into()).into())
}

/// The number of a descriptor that is none of the standard streams.
#[derive(Debug)]
pub struct Descriptor(pub RawFd);

impl FromStr for Descriptor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number >= 3 && text.bytes().all(|b| b.is_ascii_digit()));
        number.map(Self).ok_or_else(|| format!("bad descriptor {text:?}: 3 or more"))
    }
}

/// No more arguments.
pub fn no_arguments(parser: &mut Parser) -> Result<()> {
    next(parser)?.map_or(Ok(()), |arg| Err(arg.unexpected()))
}

/// Where an edit or apply verb has its document from, and whether it may act.
#[derive(Debug, Default)]
pub struct Filter {
    name: Option<Name>,
    takes_dry_run: bool,
    dry_run: bool,
}

impl Filter {
    /// For a verb that touches nothing.
    pub fn edit() -> Self {
        Self::default()
    }

    /// For a verb that changes the host, and so takes `--dry-run`.
    pub fn apply() -> Self {
        Self { takes_dry_run: true, ..Self::default() }
    }

    /// Takes the options that all such verbs have; whatever else the verb did not know is wrong usage.
    pub fn take(&mut self, arg: Argument, parser: &mut Parser) -> Result<()> {
        match arg.long() {
            "name" => self.name = Some(value(parser)?),
            "dry-run" if self.takes_dry_run => self.dry_run = true,
            _ => return Err(arg.unexpected()),
        }
        Ok(())
    }

    /// Takes the options of a verb that has none of its own.
    pub fn only(mut self, parser: &mut Parser) -> Result<Self> {
        while let Some(arg) = next(parser)? {
            self.take(arg, parser)?;
        }
        Ok(self)
    }

    /// Reads the document, lets `step` change it (told whether it may touch the host), prints it.
    pub fn run(self, step: impl FnOnce(&mut Document, bool) -> Result<()>) -> Result<()> {
        let mut doc = match &self.name {
            Some(name) => Document::new(name),
            None => read_document()?,
        };
        step(&mut doc, !self.dry_run)?;
        print(&doc.to_line())?;
        // The next step sees that this is all of it, and need not wait for this process's end.
        sys::close(1, 1).context("cannot close stdout")
    }
}

/// Carries out all the parts of an undo, and reports the errors of all of them together.
pub fn all(parts: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let errors: Vec<String> = parts.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if errors.is_empty() { Ok(()) } else { Err(anyhow!("{}", errors.join("; "))) }
}
