//! sbx-ns: makes a container's namespaces and keeps them alive with one small process.

mod apply;
mod edit;
mod holder;

use anyhow::Result;
use lexopt::Parser;
use sbx::tool::{self, Filter, Tool};
use std::process::ExitCode;

const HELP: &str = "\
sbx-ns: makes a container's namespaces and keeps them alive with one small process

usage: sbx-ns plan [--name NAME] [--hostname TEXT]   document in, document out
       sbx-ns create [--name NAME] [--dry-run]       document in, document out
       sbx-ns show NAME
       sbx-ns list
       sbx-ns remove NAME

plan    fills in linux.namespaces and hostname, where the document has none
create  makes the namespaces that linux.namespaces lists (joins those that have a path) in the cgroup of
        sbx.state.cgroups, starts their holder, fills in sbx.state.holder, and keeps the running document
show    prints the running document of NAME
list    prints name, pid and status of all containers that have a holder, as JSON: a container is
        'created' until sbx-exec boot has made it 'running'
remove  ends the holder of NAME and with it all of its processes

  --name NAME       start a document instead of reading one
  --hostname TEXT   host name inside (NAME)
  --dry-run         check, print the document, and touch nothing
  --help, --version
";

fn main() -> ExitCode {
    tool::main(&Tool { name: "sbx-ns", help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "plan" => plan(options),
        "create" => Filter::apply().only(options)?.run(apply::create),
        "show" => tool::print(&apply::show(&tool::only_name(options)?)?.to_line()),
        "list" => {
            tool::no_arguments(options)?;
            tool::print(&apply::list()?)
        }
        "remove" => apply::remove(&tool::only_name(options)?),
        // How `create` starts the holder; nobody else can, for want of its descriptors.
        holder::VERB => holder::main(),
        _ => Err(tool::no_verb(verb)),
    }
}

fn plan(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let mut hostname: Option<edit::Hostname> = None;
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "hostname" => hostname = Some(tool::value(options)?),
            _ => filter.take(arg, options)?,
        }
    }
    filter.run(|doc, _| edit::plan(doc, hostname))
}
