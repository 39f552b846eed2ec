//! What the store on a disk is measured with: a server that has it, and a place for its data and that
//! of Redis.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::statfs;
use tempfile::TempDir;

/// What the kernel says is the type of a file system that is in memory.
const TMPFS: u64 = 0x0102_1994;

/// Where the servers have their data, each in a directory that goes when it has ended.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// The folder is below the target directory if none is given.
    pub(crate) fn find(server: &Path, folder: Option<&Path>) -> Result<Disk, String> {
        has_disk(server)?;
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => on_disk(default_folder()?)?,
        };
        Ok(Disk { folder })
    }

    pub(crate) fn directory(&self) -> Result<TempDir, String> {
        let directory = tempfile::Builder::new()
            .prefix("keywire-bench-")
            .tempdir_in(&self.folder);
        directory.map_err(|error| format!("can't make a directory: {error}"))
    }
}

/// This program is in a profile's folder of the target directory.
fn default_folder() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let target = program.ancestors().nth(2);
    let folder = target.unwrap_or(Path::new(".")).join("peers/data");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

fn on_disk(folder: PathBuf) -> Result<PathBuf, String> {
    match statfs(&folder) {
        Ok(system) if system.f_type as u64 == TMPFS => Err(format!(
            "{} is in memory (tmpfs); --data names a folder on a disk",
            folder.display()
        )),
        _ => Ok(folder),
    }
}

/// A server without the feature says so before it says that the options are of no use together.
fn has_disk(server: &Path) -> Result<(), String> {
    let output = Command::new(server)
        .args(["--listen", "127.0.0.1:0", "--sync", "1"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("can't start {}: {error}", server.display()))?;
    match String::from_utf8_lossy(&output.stderr).contains("built without the disk") {
        true => Err(format!(
            "{} was built without the disk; \
             `cargo build --profile fast --features disk --example server` builds it with",
            server.display()
        )),
        false => Ok(()),
    }
}
