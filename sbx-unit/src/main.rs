//! sbx-unit: makes a container of systemd units or of a command, and the container a unit of the host.

mod apply;
mod edit;
mod files;
mod group;
mod journal;
mod place;
mod settings;
mod unit;

use anyhow::{Result, ensure};
use lexopt::Parser;
use sbx::host::UNIT_DIRECTORIES;
use sbx::tool::{self, Argument, Filter, Tool, Usage};
use sbx_unit::parse;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use unit::{Unit, UnitName};

const NAME: &str = "sbx-unit";

const HELP: &str = "\
sbx-unit: makes a container of systemd units or of a command, and the container a unit of the host

usage: sbx-unit read [--name NAME] [UNIT...]                      document in, document out
       sbx-unit init [--name NAME]                                    document in, document out
       sbx-unit command [--name NAME] [--user USER] -- CMD [ARG...]   document in, document out
       sbx-unit write [--name NAME] [--dry-run] [--scripts DIR]       document in, document out
       sbx-unit remove NAME

read     fills in process and sbx.unit for a container that runs these services of the host; a
         template (foo@) becomes foo@NAME. Settings that systemd cannot apply inside are
         switched off, and told. Without UNIT it reads those of the document again
init     fills them in for a container that has a root of its own, and boots as that says
command  fills them in for a container that runs one command
write    writes what the systemd inside reads into the container's tree, and the host's unit
         NAME_sandbox.service, which is not enabled; makes it one of UNIT_sandbox.target, the
         group of all containers of a unit, and links its journal in /var/log/journal
remove   removes the host's unit with what enables it, its groups if it was the last in them,
         and the journal's link

  --name NAME    start a document instead of reading one
  --user USER    USER[:GROUP], each a number or a name of the host's; root without it
  --scripts DIR  where sbx-start, sbx-stop and virt-sandbox-service are (found along PATH)
  --dry-run      check, print the document, and touch nothing
  --help, --version
";

#[global_allocator]
static MEMORY: sbx::Memory = sbx::Memory;

fn main() -> ExitCode {
    tool::main(&Tool { name: NAME, help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "read" => read(options),
        "init" => init(options),
        "command" => command(options),
        "write" => write(options),
        "remove" => apply::remove(&tool::only_name(options)?),
        _ => Err(tool::no_verb(verb)),
    }
}

fn read(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let mut names: Vec<UnitName> = Vec::new();
    while let Some(arg) = tool::next(options)? {
        match arg {
            Argument::Operand(_) => names.push(arg.operand()?),
            arg => filter.take(arg, options)?,
        }
    }
    let mut switched_off = Vec::new();
    filter.run(|doc, _| {
        let container = doc.name()?;
        // Without operands those that it has, again; what runs them stays as it is.
        let is_known = names.is_empty() && doc.get("process.args").is_some();
        if names.is_empty() {
            let known = edit::known(doc)?;
            names = known.names()?;
            ensure!(is_known || !names.is_empty(), "the document has no unit, and no command");
            if names.is_empty() {
                return Ok(());
            }
            // A root of its own has become the container's, and what it was made from may be gone.
            if doc.get("sbx.base").is_some() {
                return doc.set("sbx.unit", serde_json::to_value(known)?);
            }
        }
        apply::enter_base(doc)?;
        let mut units = Vec::new();
        for name in names {
            let unit = Unit::find(&name.of_container(&container)?, &UNIT_DIRECTORIES.map(Path::new))?;
            unit.check_programs()?;
            units.push(unit);
        }
        // Of the administrator's units a container gets those that are wanted alone.
        let along = Unit::all_along(&units, &UNIT_DIRECTORIES[2..].iter().map(Path::new).collect::<Vec<_>>());
        if !is_known {
            edit::systemd(doc, apply::systemd()?)?;
        }
        edit::read(doc, &units, &along)?;
        switched_off.extend(doc.require::<edit::Units>("sbx.unit")?.switched_off);
        Ok(())
    })?;
    // Only now: a failure says one line and no more.
    for (unit, settings) in switched_off {
        tool::note(NAME, &format!("{unit}: switched off inside: {}", settings.join(", ")));
    }
    Ok(())
}

fn init(options: &mut Parser) -> Result<()> {
    Filter::edit().only(options)?.run(|doc, _| {
        ensure!(apply::enter_base(doc)?, "container {} has no root of its own to boot", doc.name()?);
        let (path, init) = apply::init()?;
        edit::init(doc, path, init)
    })
}

fn command(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let mut user = None;
    let mut args: Vec<String> = Vec::new();
    while let Some(arg) = tool::next(options)? {
        match arg {
            Argument::Operand(program) => {
                args = tool::command(program, options)?.into_iter().map(tool::parsed).collect::<Result<_>>()?;
            }
            Argument::Long(name) if name == "user" => user = Some(tool::value(options)?),
            arg => filter.take(arg, options)?,
        }
    }
    if args.is_empty() {
        return Err(Usage("CMD is missing".into()).into());
    }
    filter.run(|doc, _| {
        apply::enter_base(doc)?;
        edit::command(doc, &args, &apply::identity(user.as_ref())?)
    })
}

fn write(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::apply();
    let mut scripts = None;
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "scripts" => scripts = Some(PathBuf::from(options.value()?)),
            _ => filter.take(arg, options)?,
        }
    }
    filter.run(|doc, act| apply::write(doc, scripts, act))
}
