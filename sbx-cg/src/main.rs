//! sbx-cg: control groups of containers: their limits, and where their processes are counted.

mod apply;
mod device;
mod edit;
mod hierarchy;
mod limit;
mod order;
mod quantity;
mod show;
mod tree;

use anyhow::Result;
use lexopt::Parser;
use sbx::lifeline::Lifeline;
use sbx::tool::{self, Argument, Filter, Tool};
use std::process::ExitCode;

const HELP: &str = "\
sbx-cg: control groups of containers: their limits, and where their processes are counted

usage: sbx-cg limit [--name NAME] [OPTION...]       document in, document out
       sbx-cg create [--name NAME] [--dry-run] [OPTION...]
                                                    document in, document out
       sbx-cg update [--name NAME] [--dry-run]      document in, document out
       sbx-cg show NAME
       sbx-cg freeze NAME
       sbx-cg thaw NAME
       sbx-cg kill NAME
       sbx-cg remove NAME

limit   fills in linux.cgroupsPath, and linux.resources as the options say
create  makes the cgroups with the limits of linux.resources, reads each back, and fills in
        sbx.state.cgroups; a limit that cannot be enforced is an error; with options of limit it does
        first what that does; with --while it makes none but those of limits, which are removed when
        nobody has the other end of a pipe any more, with what is left in them
update  gives the cgroups that there are the limits of linux.resources, and reads each back;
        a memory limit below what is in use is an error
show    prints the cgroups of NAME, and what is used of each limit, as JSON
freeze  stops all processes of NAME where they are
thaw    lets them go on
kill    kills them
remove  ends what is left in the cgroups of NAME, and removes them

  --name NAME      start a document instead of reading one
  --memory SIZE    bytes, or with K, M, G: 512M
  --cpus NUMBER    processor time: 0.5 is half of one processor
  --pids NUMBER    processes and threads
  --io-weight N    share of the disks' time: 10 to 1000; others have 100
  --devices WHICH  closed: only null, zero, full, random, urandom and terminals; auto: all
  --while FD       how long the cgroups are there: as long as somebody has the other end of the pipe of
                   which this descriptor is read from
  --dry-run        check, print the document, and touch nothing
  --help, --version
";

#[global_allocator]
static MEMORY: sbx::Memory = sbx::Memory;

fn main() -> ExitCode {
    tool::main(&Tool { name: "sbx-cg", help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "limit" => limit(options),
        "create" => create(options),
        "update" => Filter::apply().only(options)?.run(apply::update),
        "show" => tool::print(&show::show(&tool::only_name(options)?)?),
        "freeze" => order::freeze(&tool::only_name(options)?),
        "thaw" => order::thaw(&tool::only_name(options)?),
        "kill" => order::kill(&tool::only_name(options)?),
        "remove" => apply::remove(&tool::only_name(options)?),
        _ => Err(tool::no_verb(verb)),
    }
}

/// Takes an option, with its value, if it is one of a limit's.
fn take(wish: &mut Option<edit::Wish>, arg: &Argument, options: &mut Parser) -> Result<bool> {
    match arg.long() {
        "memory" => wish.get_or_insert_default().memory = Some(tool::value(options)?),
        "cpus" => wish.get_or_insert_default().cpus = Some(tool::value(options)?),
        "pids" => wish.get_or_insert_default().pids = Some(tool::value(options)?),
        "devices" => wish.get_or_insert_default().devices = Some(tool::value(options)?),
        "io-weight" => wish.get_or_insert_default().io_weight = Some(tool::value(options)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn limit(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let mut wish = None;
    while let Some(arg) = tool::next(options)? {
        if !take(&mut wish, &arg, options)? {
            filter.take(arg, options)?;
        }
    }
    filter.run(|doc, _| edit::limit(doc, &wish.unwrap_or_default()))
}

fn create(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::apply();
    let (mut wish, mut end) = (None, None);
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "while" => end = Some(tool::value(options)?),
            _ if take(&mut wish, &arg, options)? => {}
            _ => filter.take(arg, options)?,
        }
    }
    let end = Lifeline::of_option(end)?;
    filter.run(|doc, act| {
        wish.map_or(Ok(()), |wish| edit::limit(doc, &wish))?;
        apply::create(doc, end, act)
    })
}
