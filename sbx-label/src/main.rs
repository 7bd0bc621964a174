//! sbx-label: gives each container an SELinux label of its own.

mod apply;
mod edit;
mod files;
mod reserved;

use anyhow::Result;
use lexopt::Parser;
use sbx::tool::{self, Filter, Tool};
use sbx_label::level;
use std::process::ExitCode;

const HELP: &str = "\
sbx-label: gives each container an SELinux label of its own

usage: sbx-label alloc [--name NAME] [--dry-run] [OPTION...]   document in, document out
       sbx-label relabel [--name NAME] [--dry-run]             document in, document out
       sbx-label check NAME
       sbx-label list
       sbx-label remove NAME

alloc   claims a pair of MCS categories that no other container or process has, and fills in
        process.selinuxLabel and linux.mountLabel; a container that has a pair keeps it
relabel gives every file of the private tree the label linux.mountLabel
check   prints the files of NAME with another label than its definition has, as JSON
list    prints all claims as JSON
remove  gives the pair of NAME back

  --name NAME           start a document instead of reading one
  --dry-run             print the document that would be printed, and touch nothing
  --type TYPE           type of the processes (sbx_t, or what the policy has for containers)
  --file-type TYPE      type of the private files (sbx_file_t, or what the policy has)
  --label CONTEXT       label of the processes: with categories, this pair is claimed and no other
  --categories LOW-HIGH choose the pair from this range (0-1023)
  --help, --version
";

fn main() -> ExitCode {
    tool::main(&Tool { name: "sbx-label", help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "alloc" => alloc(options),
        "relabel" => Filter::apply().only(options)?.run(|doc, act| apply::relabel(doc, act)),
        "check" => tool::print(&apply::check(&tool::only_name(options)?)?),
        "list" => {
            tool::no_arguments(options)?;
            tool::print(&apply::list()?)
        }
        "remove" => apply::remove(&tool::only_name(options)?),
        _ => Err(tool::no_verb(verb)),
    }
}

fn alloc(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::apply();
    let mut wish = edit::Wish::default();
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "type" => wish.process_type = Some(tool::value(options)?),
            "file-type" => wish.file_type = Some(tool::value(options)?),
            "label" => wish.label = Some(tool::value(options)?),
            "categories" => wish.choice = tool::value(options)?,
            _ => filter.take(arg, options)?,
        }
    }
    filter.run(|doc, act| {
        let types = wish.types(apply::policy_types()?);
        let choice = wish.take_label(doc)?;
        let level = apply::claim(&doc.name()?, choice, act)?;
        edit::fill(doc, &types, level)
    })?;
    if !apply::is_enabled() {
        tool::note("sbx-label", "SELinux is off: the label is kept and has no effect until it is on");
    }
    Ok(())
}
