//! sbx-net: networks of containers.

mod apply;
mod edit;
mod netlink;

use anyhow::Result;
use lexopt::Parser;
use sbx::tool::{self, Filter, Tool};
use std::process::ExitCode;

const HELP: &str = "\
sbx-net: networks of containers

usage: sbx-net plan [--name NAME]               document in, document out
       sbx-net up [--name NAME] [--dry-run]     document in, document out
       sbx-net remove NAME

plan    fills in sbx.net, where the document has none: no interface but loopback
up      brings the network of a running document up, in its own network namespace; a container
        without one has the host's, which is left alone
remove  takes away what up has made outside of the namespace

  --name NAME  start a document instead of reading one
  --dry-run    check, print the document, and touch nothing
  --help, --version
";

fn main() -> ExitCode {
    tool::main(&Tool { name: "sbx-net", help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "plan" => Filter::edit().only(options)?.run(|doc, _| edit::plan(doc)),
        "up" => Filter::apply().only(options)?.run(|doc, act| apply::up(doc, act)),
        // All that up makes yet is in the namespace, and goes with it.
        "remove" => tool::only_name(options).map(drop),
        _ => Err(tool::no_verb(verb)),
    }
}
