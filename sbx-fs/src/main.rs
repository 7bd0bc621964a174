//! sbx-fs: the file system of a container: what it shares with the host, what is its own, and how it is mounted.

use anyhow::Result;
use lexopt::Parser;
use sbx::Name;
use sbx::tool::{self, Argument, Filter, Tool, Usage};
use sbx_fs::host::Host;
use sbx_fs::{apply, archive, clone, edit, mount, resize, select, upgrade};
use serde_json::json;
use std::io::{self, BufReader, BufWriter, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

const NAME: &str = "sbx-fs";

const HELP: &str = "\
sbx-fs: the file system of a container: what it shares with the host, what is its own, and how it is mounted

usage: sbx-fs base [--name NAME] DIRECTORY                  document in, document out
       sbx-fs layout [--name NAME] [OPTION...]               document in, document out
       sbx-fs idmap [OPTION...]
       sbx-fs clone [--name NAME] [--dry-run] [OPTION...]   document in, document out
       sbx-fs clone [--force] SOURCE DESTINATION            any directory tree, no document
       sbx-fs mount [--name NAME] [--dry-run] [OPTION...]   document in, document out
       sbx-fs resize [--name NAME] [--dry-run]              document in, document out
       sbx-fs upgrade [--dry-run] NAME
       sbx-fs diff NAME
       sbx-fs export [--force] NAME                         archive out
       sbx-fs import [OPTION...] --name NAME                archive in, document out
       sbx-fs remove NAME

base    fills in sbx.base: the container gets a root of its own, made from this directory, instead
        of sharing the host's programs
layout  fills in root, mounts, linux.maskedPaths and linux.readonlyPaths
idmap   tries whether what a container of that layout has of the host's can have the ids of a user
        namespace, and prints what cannot, and why, as JSON
clone   makes the private tree: /etc as the host's, without its secrets and identity; /var with the
        directories of the packages that own the units; /root, /home and /srv empty; fills in sbx.clone;
        with operands: makes the directory DESTINATION a clone of the directory SOURCE, whole or not at all
mount   builds the file system in the namespaces of the running container; with options of layout it
        does first what that does
resize  gives the memory file systems of the running container the sizes that mounts says, and its
        image the size that sbx.store says
upgrade takes what has changed on the host since the clone, or the last upgrade, into the private
        tree of NAME, and prints it as JSON; what was edited there stays as it is, with the host's
        version beside it as FILE.sbx-new
diff    prints what of its /etc NAME has changed since, as JSON
export  prints NAME as an archive that tar reads: what of its definition is not the host's, its
        manifest, and its private tree without what says who it is
import  makes the private tree of NAME from such an archive, of which it trusts nothing, and
        prints a document that it begins
remove  removes the private tree of NAME

  --name NAME     start a document instead of reading one
  --dry-run       check, print the document, and touch nothing
  --mount MOUNT   host-bind:DESTINATION=SOURCE[,ro], host-image:DESTINATION=FILE[,ro],
                  guest-bind:DESTINATION=PATH[,ro] or ram:DESTINATION=SIZE[,uid=UID,gid=GID], where SIZE
                  can be auto; may be repeated
  --store STORE   what the private tree is kept in: a directory, as it is without this; image:SIZE,
                  a file system in a file; overlay, over a snapshot that is shared by all that
                  begin alike; memory, made at each start over the host's own root
  --path PATH     where it is kept: in a directory NAME of this one, which root alone can change
  --from NAME     clone the tree of this container instead of the host's
  --copy          clone the content of the packages' directories too
  --force         copy files even while they are being written, as a running database does
  --device        make the device nodes that the archive has
  --package PKG   clone the directories of this package too; may be repeated
  --secret PATH   let this secret of the host in; may be repeated
  --help, --version
";

#[global_allocator]
static MEMORY: sbx::Memory = sbx::Memory;

fn main() -> ExitCode {
    tool::main(&Tool { name: NAME, help: HELP, run })
}

fn run(verb: &str, options: &mut Parser) -> Result<()> {
    match verb {
        "base" => base(options),
        "layout" => layout(options),
        "idmap" => idmap(options),
        "clone" => clone(options),
        "mount" => mount(options),
        "resize" => Filter::apply().only(options)?.run(|doc, act| resize::resize(doc, act)),
        "upgrade" => upgrade(options),
        "export" => export(options),
        "import" => import(options),
        "diff" => tool::print(&upgrade::diff(&tool::only_name(options)?)?),
        "remove" => apply::remove(&tool::only_name(options)?),
        _ => Err(tool::no_verb(verb)),
    }
}

fn base(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let mut directory: Option<PathBuf> = None;
    while let Some(arg) = tool::next(options)? {
        match arg {
            Argument::Operand(path) if directory.is_none() => directory = Some(path.into()),
            arg => filter.take(arg, options)?,
        }
    }
    let directory = directory.ok_or_else(|| Usage("DIRECTORY is missing".into()))?;
    filter.run(|doc, _| edit::base(doc, &directory))
}

/// Takes an option, with its value, if it is one of a layout's.
fn take(wish: &mut Option<edit::Wish>, arg: &Argument, options: &mut Parser) -> Result<bool> {
    match arg.long() {
        "mount" => wish.get_or_insert_default().mounts.push(tool::value(options)?),
        "store" => wish.get_or_insert_default().store = Some(tool::value(options)?),
        "path" => wish.get_or_insert_default().path = Some(tool::value(options)?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// What a verb is asked for, if for anything.
fn wish(filter: &mut Filter, options: &mut Parser) -> Result<Option<edit::Wish>> {
    let mut wish = None;
    while let Some(arg) = tool::next(options)? {
        if !take(&mut wish, &arg, options)? {
            filter.take(arg, options)?;
        }
    }
    Ok(wish)
}

fn layout(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::edit();
    let wish = wish(&mut filter, options)?.unwrap_or_default();
    let host = Host::at("/".as_ref());
    filter.run(|doc, _| edit::layout(doc, wish, &host?))
}

fn mount(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::apply();
    let wish = wish(&mut filter, options)?;
    // While the steps before this one are at work. If one of them fails there is nothing more to be said.
    let here = mount::Here::look(wish.as_ref());
    let mut rest = None;
    filter.run(|doc, act| {
        let here = here?;
        wish.map_or(Ok(()), |wish| edit::layout(doc, wish, &here.host))?;
        rest = Some(mount::mount(doc, here, act)?);
        Ok(())
    })
}

fn idmap(options: &mut Parser) -> Result<()> {
    let mut wish = None;
    while let Some(arg) = tool::next(options)? {
        if !take(&mut wish, &arg, options)? {
            return Err(arg.unexpected());
        }
    }
    let wish = wish.unwrap_or_default();
    let refused = mount::without_ids(&edit::sources(&wish, &Host::at("/".as_ref())?)?)?;
    let overlay = wish.store.unwrap_or_default().can_map_ids().err().map(|error| ("sbx.store".into(), error));
    let refused = overlay.into_iter().chain(refused);
    let refused: Vec<_> = refused.map(|(what, why)| json!({ "what": what, "why": format!("{why:#}") })).collect();
    tool::print(&serde_json::to_vec(&refused)?)
}

fn upgrade(options: &mut Parser) -> Result<()> {
    let mut dry_run = false;
    let name = tool::name_and(options, &mut [("dry-run", &mut dry_run)])?;
    tool::print(&upgrade::upgrade(&name, !dry_run)?)
}

fn export(options: &mut Parser) -> Result<()> {
    let mut force = false;
    let name = tool::name_and(options, &mut [("force", &mut force)])?;
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(Usage("would write an archive to a terminal".into()).into());
    }
    say(&archive::export(&name, force, BufWriter::new(stdout))?);
    Ok(())
}

fn import(options: &mut Parser) -> Result<()> {
    let (mut name, mut devices, mut wish) = (None::<Name>, false, edit::Wish::default());
    while let Some(arg) = tool::next(options)? {
        match arg.long() {
            "name" => name = Some(tool::value(options)?),
            "device" => devices = true,
            "store" => wish.store = Some(tool::value(options)?),
            "path" => wish.path = Some(tool::value(options)?),
            _ => return Err(arg.unexpected()),
        }
    }
    let name = name.ok_or_else(|| Usage("--name NAME is missing".into()))?;
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Usage("stdin is a terminal: pipe an archive in".into()).into());
    }
    let (doc, notes) = archive::import(&name, &wish, devices, BufReader::new(stdin))?;
    tool::print(&doc.to_line())?;
    say(&notes);
    Ok(())
}

/// What is worth knowing, once the step is done: a failure says one line and no more.
fn say(notes: &[String]) {
    notes.iter().for_each(|note| tool::note(NAME, note));
}

fn clone(options: &mut Parser) -> Result<()> {
    let mut filter = Filter::apply();
    let mut wish = select::Wish::default();
    let mut operands = Vec::new();
    let mut is_of_a_document = false;
    while let Some(arg) = tool::next(options)? {
        if let Argument::Operand(path) = arg {
            operands.push(PathBuf::from(path));
            continue;
        }
        is_of_a_document |= arg.long() != "force";
        match arg.long() {
            "from" => wish.from = Some(tool::value(options)?),
            "copy" => wish.copy = true,
            "force" => wish.force = true,
            "package" => wish.packages.push(tool::value(options)?),
            "secret" => wish.secrets.push(tool::value(options)?),
            _ => filter.take(arg, options)?,
        }
    }
    let mut notes = Vec::new();
    match operands.as_slice() {
        [] => filter.run(|doc, act| {
            notes = apply::clone(doc, &wish, "/".as_ref(), act)?;
            Ok(())
        })?,
        [source, destination] if !is_of_a_document => notes = clone::clone(source, destination, wish.force)?,
        _ => return Err(Usage("operands are SOURCE and DESTINATION, with no option but --force".into()).into()),
    }
    say(&notes);
    Ok(())
}
