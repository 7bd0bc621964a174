//! sbx-net: networks of containers.

mod apply;
mod edit;
mod netlink;
mod network;

use anyhow::Result;
use lexopt::Parser;
use sbx::tool::{self, Filter, Tool};
use std::process::ExitCode;

/// The name before every message.
const NAME: &str = "sbx-net";

const HELP: &str = "\
sbx-net: networks of containers

usage: sbx-net plan [--name NAME] [OPTION...]   document in, document out
       sbx-net up [--name NAME] [--dry-run]     document in, document out
       sbx-net remove NAME

plan    fills in sbx.net, where the document has none: no interface but loopback; or as the
        options say, and whose network namespace it is in linux.namespaces
up      brings the network of a running document up, in its own network namespace; a container
        without one has the host's, which is left alone
remove  takes away what up has made outside of the namespace

  --name NAME        start a document instead of reading one
  --network SPEC     an interface, or none, host, netns=PATH, container=NAME; may be repeated:
                     eth0, eth1, ... An interface is, separated by commas:
                       source=BRIDGE    default, which is the same as dhcp: a lease on our sbx0
                       mode=MODE        bridge; macvlan or ipvlan, of which source is the parent
                       address=IP[/PREFIX][%BROADCAST], route=NET[/PREFIX]%GATEWAY: any number
                       mac=MAC, mtu=BYTES
  --publish PORTS    [IP:]HOST:PORT[/udp]: a port of the host that leads inside; may be repeated
  --allow NAME       a container that may connect to this one; may be repeated
  --egress WHERE     where it may connect to: none, dns, CIDR,... or all
  --dry-run          check, print the document, and touch nothing
  --help, --version
";

fn main() -> ExitCode {
    tool::main(&Tool { name: NAME, help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "plan" => plan(options),
        "up" => Filter::apply().only(options)?.run(|doc, act| apply::up(doc, act)),
        // All that up makes yet is in the namespace, and goes with it.
        "remove" => tool::only_name(options).map(drop),
        _ => Err(tool::no_verb(verb)),
    }
}

fn plan(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let mut wish = edit::Wish::default();
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "network" => wish.networks.push(tool::value(options)?),
            "publish" => wish.publish.push(tool::value(options)?),
            "allow" => wish.allow.push(tool::value(options)?),
            "egress" => wish.egress = Some(tool::value(options)?),
            _ => filter.take(arg, options)?,
        }
    }
    let is_host = wish.networks.contains(&network::Spec::Host);
    filter.run(|doc, _| edit::plan(doc, wish))?;
    if is_host {
        tool::note(NAME, "the host's network is the container's: nothing of it is kept from what runs inside");
    }
    Ok(())
}
