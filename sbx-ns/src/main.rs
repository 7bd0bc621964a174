//! sbx-ns: makes a container's namespaces and keeps them alive with one small process.

mod apply;
mod edit;
mod holder;

use anyhow::Result;
use apply::Life;
use lexopt::Parser;
use sbx::ids::Ids;
use sbx::lifeline::Lifeline;
use sbx::tool::{self, Argument, Filter, Tool, Usage};
use std::process::ExitCode;

const HELP: &str = "\
sbx-ns: makes a container's namespaces and keeps them alive with one small process

usage: sbx-ns plan [--name NAME] [--hostname TEXT] [--userns USERS]   document in, document out
       sbx-ns alloc [--name NAME] [--dry-run]        document in, document out
       sbx-ns create [--name NAME] [--dry-run] [OPTION...]
                                                     document in, document out
       sbx-ns show NAME
       sbx-ns list
       sbx-ns remove [--ids] NAME

plan    fills in linux.namespaces and hostname, where the document has none, and what is asked for
alloc   claims ids of the host's for a user namespace, if linux.namespaces has one: those of
        linux.uidMappings and gidMappings, or else any that nobody has, and fills in those two; a
        container that has ids keeps them
create  makes the namespaces that linux.namespaces lists (joins those that have a path) in the cgroup of
        sbx.state.cgroups, starts their holder, fills in sbx.state.holder, and keeps the running document;
        with options of plan, or where the document has no linux.namespaces, it does first what that does;
        with --while the container ends when nobody has the other end of a pipe any more, and cannot be
        booted
show    prints the running document of NAME
list    prints name, pid and status of all containers that have a holder, as JSON, but for those that
        are unlisted: a container is 'created' until sbx-exec boot has made it 'running'
remove  ends the holder of NAME and with it all of its processes; with --ids gives back its ids

  --name NAME       start a document instead of reading one
  --hostname TEXT   host name inside (NAME)
  --userns USERS    auto: ids of its own, by a user namespace; host: those of the host (as without);
                    UID:GID:SIZE: root inside is user UID and group GID of the host's, and SIZE ids
                    from there on are the container's; keep-id[:UID:GID]: an ordinary user is himself
                    inside (as without, for him), or user UID and group GID
  --while FD        how long the container is there: as long as somebody has the other end of the pipe of
                    which this descriptor is read from
  --unlisted        nothing is kept of such a container: who has its document knows it, and nobody has to
                    remove it
  --dry-run         check, print the document, and touch nothing
  --help, --version
";

fn main() -> ExitCode {
    tool::main(&Tool { name: "sbx-ns", help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "plan" => plan(options),
        "alloc" => Filter::apply().only(options)?.run(apply::alloc),
        "create" => create(options),
        "show" => tool::print(&apply::show(&tool::only_name(options)?)?.to_line()),
        "list" => {
            tool::no_arguments(options)?;
            tool::print(&apply::list()?)
        }
        "remove" => {
            let mut ids = false;
            let name = tool::name_and(options, &mut [("ids", &mut ids)])?;
            apply::remove(&name)?;
            if ids { Ids::release(&name) } else { Ok(()) }
        }
        // How `create` starts the holder; nobody else can, for want of its descriptors.
        verb if holder::VERBS.contains(&verb) => holder::main(verb),
        _ => Err(tool::no_verb(verb)),
    }
}

/// Takes an option, with its value, if it is one of a plan's.
fn take(wish: &mut Option<edit::Wish>, arg: &Argument, options: &mut Parser) -> Result<bool> {
    match arg.long() {
        "hostname" => wish.get_or_insert_default().hostname = Some(tool::value(options)?),
        "userns" => wish.get_or_insert_default().users = Some(tool::value(options)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn plan(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let mut wish = None;
    while let Some(arg) = tool::next(options)? {
        if !take(&mut wish, &arg, options)? {
            filter.take(arg, options)?;
        }
    }
    filter.run(|doc, _| edit::plan(doc, wish.unwrap_or_default()))
}

fn create(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::apply();
    let (mut wish, mut end, mut is_unlisted) = (None, None, false);
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "while" => end = Some(tool::value(options)?),
            "unlisted" => is_unlisted = true,
            _ if take(&mut wish, &arg, options)? => {}
            _ => filter.take(arg, options)?,
        }
    }
    let end = Lifeline::of_option(end)?;
    let life = match (end, is_unlisted) {
        (None, false) => Life::Kept,
        (None, true) => return Err(Usage("--unlisted goes with --while: nobody else could end it".into()).into()),
        (Some(end), false) => Life::KeptWhile(end),
        (Some(end), true) => Life::While(end),
    };
    let mut holder = None;
    filter.run(|doc, act| {
        if wish.is_some() || doc.get("linux.namespaces").is_none() {
            edit::plan(doc, wish.unwrap_or_default())?;
        }
        holder = apply::create(doc, life, act)?;
        Ok(())
    })?;
    // Had nobody been told of it, it would have ended.
    holder.map_or(Ok(()), apply::Unreleased::release)
}
