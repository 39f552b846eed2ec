//! kevy, which is installed if it is missing: below the target directory, where it harms nobody.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const VERSION: &str = "3.17.3";

/// Where the program is, and the folder that it keeps its files in. It keeps none as it is started
/// here, but wants one.
#[derive(Debug)]
pub(crate) struct Kevy {
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Kevy {
    pub(crate) const NAME: &str = "kevy 3.17.3";

    /// Finds it, or has cargo install it, which takes some minutes.
    pub(crate) fn find_or_install() -> Result<Kevy, String> {
        let root = root()?;
        let program = root.join("bin/kevy");
        let folder = root.join("data");
        if !is_right(&program) {
            eprintln!("{} is installed into {}, once", Kevy::NAME, root.display());
            install(&root)?;
        }
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Kevy { program, folder })
    }
}

/// This program is in a profile's folder of the target directory.
fn root() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let target = program.ancestors().nth(2);
    let target = target.ok_or_else(|| format!("{} has no folder", program.display()))?;
    Ok(target.join("peers/kevy"))
}

fn is_right(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.split_ascii_whitespace().any(|word| word == VERSION)
    })
}

fn install(root: &Path) -> Result<(), String> {
    let status = Command::new("cargo")
        .args([
            "install",
            "kevy",
            "--version",
            VERSION,
            "--locked",
            "--root",
        ])
        .arg(root)
        // Its own, not that of a workspace that this is run in.
        .arg("--target-dir")
        .arg(root.join("build"))
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() && is_right(&root.join("bin/kevy")) => {
            // What is left of the build takes room and nothing else.
            let _ = fs::remove_dir_all(root.join("build"));
            Ok(())
        }
        Ok(status) => Err(format!("cargo could not install it ({status})")),
        Err(error) => Err(format!("cargo could not be started: {error}")),
    }
}
