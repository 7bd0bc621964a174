//! sbx-net: networks of containers.

mod address;
mod apply;
mod bridge;
mod derive;
mod edit;
mod firewall;
mod lease;
mod netlink;
mod network;
mod ports;
mod record;

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
       sbx-net show NAME
       sbx-net list
       sbx-net remove [--addresses] NAME

plan    fills in sbx.net, where the document has none: no interface but loopback; or as the
        options say, and whose network namespace it is in linux.namespaces
up      brings the network of a running document up: makes the interfaces, gives them addresses, and
        sets the firewall; a container without a namespace has the host's network, which is left alone
show    prints the interfaces of NAME, their ends on the host, and who may connect, as JSON
list    prints that of all containers that run and have interfaces
remove  takes away what up has made outside of the namespace; with --addresses gives back its leases

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
  --addresses        give its addresses back
  --dry-run          check, print the document, and touch nothing
  --help, --version
";

#[global_allocator]
static MEMORY: sbx::Memory = sbx::Memory;

fn main() -> ExitCode {
    tool::main(&Tool { name: NAME, help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "plan" => plan(options),
        "up" => Filter::apply().only(options)?.run(|doc, act| apply::up(doc, act)),
        "show" => tool::print(&apply::show(&tool::only_name(options)?)?),
        "list" => {
            tool::no_arguments(options)?;
            tool::print(&apply::list()?)
        }
        "remove" => {
            let mut addresses = false;
            let name = tool::name_and(options, &mut [("addresses", &mut addresses)])?;
            apply::remove(&name, addresses)
        }
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
