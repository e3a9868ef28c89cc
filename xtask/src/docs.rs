//! `cargo xtask docs`: writes the pages that are made from the program (docs/reference); `--build` makes the book of docs/ with mdBook.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use stayput_testkit::{assets, reference};

use crate::setup;

/// The program that makes the book: exactly this version.
const MDBOOK: &str = "0.5.4";

/// Options of `cargo xtask docs`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Also build the book into target/book; the first time installs mdBook below target/, which takes some minutes
    #[arg(long)]
    build: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let cargo = PathBuf::from(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let mut build = Command::new(&cargo);
    checked(build.args(["build", "--quiet", "-p", "stayput", "--bin", "stayput"]).current_dir(setup::workspace()))?;
    let docs = setup::workspace().join("docs");
    for (name, page) in reference::pages(&assets::target_dir().join("debug/stayput"))? {
        let path = docs.join(name);
        let is_new = std::fs::read_to_string(&path).ok().as_ref() != Some(&page);
        if is_new {
            std::fs::write(&path, &page).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        println!("docs/{name}: {}", if is_new { "written" } else { "as it was" });
    }
    if arguments.build {
        let tools = assets::target_dir().join("mdbook");
        setup::once(&assets::target_dir().join("mdbook.stamp"), MDBOOK, || {
            println!("docs: installing mdBook {MDBOOK} in {}", tools.display());
            let mut install = Command::new(&cargo);
            let words = ["install", "--locked", "--quiet", "mdbook", "--version", MDBOOK, "--no-default-features", "--features", "search"];
            checked(install.args(words).arg("--root").arg(&tools))
        })?;
        let book = assets::target_dir().join("book");
        checked(
            Command::new(tools.join("bin/mdbook"))
                .arg("build")
                .arg(&docs)
                .arg("--dest-dir")
                .arg(std::path::absolute(&book).map_err(|error| error.to_string())?),
        )?;
        println!("docs: the book is {}", book.join("index.html").display());
    }
    Ok(ExitCode::SUCCESS)
}

fn checked(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}");
    let status = command.stdin(Stdio::null()).status().map_err(|error| format!("cannot start {shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} ended with {status}")) }
}
