//! `cargo xtask dist`: binaries that people can copy. Static, in the profile `dist`, each beside the licences of what is in it, in
//! `target/dist/stayput-VERSION-TARGET/`, with man pages, completions and the unit for systemd. The one for this machine is shown to run in an empty root.
//!
//! It refuses to pass on a binary that is not static, too large, or that was not shown to run.

mod beside;
mod licences;
mod proof;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::setup::workspace;

/// Nobody should have to think about its size.
const LARGEST: u64 = 12 * 1024 * 1024;

/// What is built where the toolchain can.
struct Target {
    triple: &'static str,
    /// The linker, where it is not the host's.
    linker: Option<&'static str>,
    /// What the C library is, for the list of licences.
    libc: &'static str,
}

const GLIBC: &str = "GNU C Library, LGPL-2.1-or-later, linked statically";
const MUSL: &str = "musl, MIT, linked statically";

const TARGETS: [Target; 4] = [
    Target { triple: "x86_64-unknown-linux-gnu", linker: None, libc: GLIBC },
    Target { triple: "x86_64-unknown-linux-musl", linker: None, libc: MUSL },
    Target { triple: "aarch64-unknown-linux-gnu", linker: Some("aarch64-linux-gnu-gcc"), libc: GLIBC },
    Target { triple: "aarch64-unknown-linux-musl", linker: Some("rust-lld"), libc: MUSL },
];

pub(crate) fn run() -> Result<ExitCode, String> {
    let sysroot = PathBuf::from(said("rustc", &["--print", "sysroot"])?);
    let host = said("rustc", &["--print", "host-tuple"])?;
    let mut proved: Option<PathBuf> = None;
    let mut foreign = Vec::new();
    for target in &TARGETS {
        if let Err(missing) = can_build(target, &sysroot) {
            println!("dist: NOT BUILT: {}: {missing}", target.triple);
            continue;
        }
        let binary = build(target)?;
        let place = place(target)?;
        let copy = place.join("stayput");
        is_static(&binary)?;
        strip(target, &binary, &copy)?;
        is_small(&copy)?;
        licences::write(target.triple, target.libc, &place)?;
        // What this machine's kernel can execute.
        if target.triple.split('-').next() == host.split('-').next() {
            proof::runs_in_an_empty_root(&copy, target.triple)?;
            beside::write(&copy, &place)?;
            proved = Some(copy);
        } else {
            println!("dist: NOT TRIED: {}: this machine cannot execute it", target.triple);
            foreign.push(place.clone());
        }
        println!("dist: {}", place.display());
    }
    let proved = proved.ok_or("no binary was built for this machine")?;
    foreign.iter().try_for_each(|place| beside::write(&proved, place))?;
    Ok(ExitCode::SUCCESS)
}

fn can_build(target: &Target, sysroot: &Path) -> Result<(), String> {
    if !sysroot.join("lib/rustlib").join(target.triple).join("lib").exists() {
        return Err(format!("this toolchain has no standard library for it (rustup target add {})", target.triple));
    }
    match target.linker {
        Some(linker) if linker != "rust-lld" && stayput_testkit::assets::find_program(linker).is_none() => {
            Err(format!("there is no {linker} to link it with"))
        }
        _ => Ok(()),
    }
}

fn build(target: &Target) -> Result<PathBuf, String> {
    let dir = workspace().join("target/dist-build");
    println!("dist: building {} (profile dist: minutes)", target.triple);
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--profile", "dist", "--locked", "--package", "stayput", "--target", target.triple, "--target-dir"])
        .arg(&dir)
        .current_dir(workspace())
        // With --target it applies to the program alone, not to build scripts and macros.
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    if let Some(linker) = target.linker {
        command.env(format!("CARGO_TARGET_{}_LINKER", target.triple.to_uppercase().replace('-', "_")), linker);
    }
    checked(&mut command)?;
    Ok(dir.join(target.triple).join("dist/stayput"))
}

fn is_static(binary: &Path) -> Result<(), String> {
    let bytes = std::fs::read(binary).map_err(|error| format!("cannot read {}: {error}", binary.display()))?;
    if wants_an_interpreter(&bytes).ok_or_else(|| format!("{} is no 64-bit ELF file", binary.display()))? {
        return Err(format!("{} is not static: it asks for a dynamic linker", binary.display()));
    }
    needs_no_name_service(&bytes).map_err(|why| format!("{}: {why}", binary.display()))
}

/// Copies it without the symbol table, which only the checks need.
fn strip(target: &Target, from: &Path, to: &Path) -> Result<(), String> {
    let cross = target.linker.and_then(|linker| linker.strip_suffix("gcc")).unwrap_or_default();
    checked(Command::new(format!("{cross}strip")).arg("-o").args([to, from]))
}

fn is_small(binary: &Path) -> Result<(), String> {
    let size = std::fs::metadata(binary).map_err(|error| format!("cannot read {}: {error}", binary.display()))?.len();
    if size > LARGEST {
        return Err(format!("{} has {size} bytes; at most {LARGEST} are wanted", binary.display()));
    }
    println!("dist: static, {}.{} MB (at most {} MB)", size / 1_048_576, size % 1_048_576 * 10 / 1_048_576, LARGEST / 1_048_576);
    Ok(())
}

/// What glibc answers with shared libraries that it loads at run time (nsswitch.conf(5), gconv), also in a static program: where they are
/// missing or of another version, it fails or crashes.
const LOADED_AT_RUN_TIME: [&str; 7] =
    ["getaddrinfo", "gethostbyname_r", "getpwnam_r", "getpwuid_r", "getgrnam_r", "getservbyname_r", "iconv_open"];

/// None of these functions is linked. Found by their names in the symbol table, which the release profile keeps.
fn needs_no_name_service(file: &[u8]) -> Result<(), String> {
    let has = |name: &str| {
        let symbol = format!("\0{name}\0");
        file.windows(symbol.len()).any(|window| window == symbol.as_bytes())
    };
    // The clock in messages uses it, so it is there wherever there is a symbol table.
    if !has("localtime_r") && !has("__localtime_r") {
        return Err("it has no symbol table in which to look for what loads libraries at run time".to_owned());
    }
    match LOADED_AT_RUN_TIME.iter().find(|name| has(name)) {
        None => Ok(()),
        Some(name) => Err(format!("it calls {name}, which loads shared libraries at run time")),
    }
}

/// Whether an ELF file has a `PT_INTERP` header (elf(5)); `None`: it is no 64-bit little-endian ELF file.
fn wants_an_interpreter(file: &[u8]) -> Option<bool> {
    const INTERP: u32 = 3;
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let start = usize::try_from(u64::from_le_bytes(file.get(32..40)?.try_into().ok()?)).ok()?;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?)));
    let (size, count) = (half(54)?, half(56)?);
    for header in 0..count {
        let at = start.checked_add(header * size)?;
        if u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?) == INTERP {
            return Some(true);
        }
    }
    Some(false)
}

fn place(target: &Target) -> Result<PathBuf, String> {
    let name = format!("stayput-{}-{}", env!("CARGO_PKG_VERSION"), target.triple);
    let place = workspace().join("target/dist").join(name);
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", place.display());
    if place.exists() {
        std::fs::remove_dir_all(&place).map_err(failed)?;
    }
    std::fs::create_dir_all(&place).map_err(failed)?;
    for text in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"] {
        copy_file(&workspace().join(text), &place.join(text))?;
    }
    Ok(place)
}

fn copy_file(from: &Path, to: &Path) -> Result<(), String> {
    std::fs::copy(from, to).map(|_| ()).map_err(|error| format!("cannot copy {} to {}: {error}", from.display(), to.display()))
}

fn checked(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}")) }
}

/// The one line that a program says.
fn said(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("cannot start {program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{program} {} ended with {}: {}", arguments.join(" "), output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header with one program header of this type.
    fn elf(kind: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64; // e_phoff
        file[54] = 56; // e_phentsize
        file[56] = 1; // e_phnum
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        file
    }

    #[test]
    fn what_loads_libraries_is_found() {
        assert!(needs_no_name_service(b"\0localtime_r\0getaddrinfo_a\0").is_ok());
        assert!(needs_no_name_service(b"\0__localtime_r\0getaddrinfo\0").unwrap_err().contains("getaddrinfo"));
        assert!(needs_no_name_service(b"\0getaddrinfo\0").unwrap_err().contains("symbol table"));
    }

    #[test]
    fn static_is_told_from_dynamic() {
        assert_eq!(wants_an_interpreter(&elf(3)), Some(true));
        assert_eq!(wants_an_interpreter(&elf(1)), Some(false));
        assert_eq!(wants_an_interpreter(b"#!/bin/sh"), None);
        assert_eq!(wants_an_interpreter(&elf(1)[..100]), Some(false));
        assert_eq!(wants_an_interpreter(&elf(1)[..66]), None);
        // This very program is linked as usual.
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(wants_an_interpreter(&own), Some(true));
    }
}
