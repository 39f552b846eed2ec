//! The lines typed before, kept in a file from one session to the next.

use std::{
    env::var_os,
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustyline::history::{FileHistory, History as _};

use crate::say::{reason, say};

/// How many lines are kept.
pub(crate) const LINES: usize = 1000;

/// The longest line that is kept, in bytes. With `LINES` it bounds the file.
const LONGEST: usize = 4096;

/// The file. Sessions that share it add to it under its lock, so none loses the lines of another.
pub(crate) struct HistoryFile {
    path: PathBuf,
}

impl HistoryFile {
    /// The file that the environment names; nothing if there is to be none.
    pub(crate) fn from_env() -> Option<Self> {
        let path = match var_os("KEYWIRE_HISTORY") {
            Some(path) => PathBuf::from(path),
            None => state_directory()?.join("keywire/history"),
        };
        (!path.as_os_str().is_empty()).then_some(Self { path })
    }

    /// Gives the file back if it can be added to.
    pub(crate) fn load(self, history: &mut FileHistory) -> Option<Self> {
        if var_os("KEYWIRE_HISTORY").is_none()
            && let Some(directory) = self.path.parent()
        {
            // If that fails, so does what follows.
            let _ = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory);
        }
        let prepared = prepare(&self.path);
        let loaded = prepared.and_then(|()| history.load(&self.path).map_err(io::Error::other));
        self.unless_failed(loaded)
    }

    /// Adds what is new in the history. Gives the file back if it can be added to again.
    pub(crate) fn append(self, history: &mut FileHistory) -> Option<Self> {
        let prepared = prepare(&self.path);
        let appended = prepared.and_then(|()| history.append(&self.path).map_err(io::Error::other));
        self.unless_failed(appended)
    }

    fn unless_failed(self, done: io::Result<()>) -> Option<Self> {
        let Err(error) = done else { return Some(self) };
        let (path, reason) = (self.path.display(), reason(&error));
        say(format_args!("no history is kept: {path}: {reason}"));
        None
    }
}

/// Whether a line belongs into a history: a secret does not.
pub(crate) fn is_kept(line: &str) -> bool {
    let is_secret = |line: &str| {
        let word = line.trim_start().get(..5);
        word.is_some_and(|word| word.eq_ignore_ascii_case("auth:"))
    };
    line.len() <= LONGEST && !line.split(['\n', '\r']).any(is_secret)
}

/// Makes sure of a file that only its owner can read. The editor would make one, too, and thereby
/// empty one that another session made just then; and it would change the mode of a device.
fn prepare(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)?;
    Ok(())
}

fn state_directory() -> Option<PathBuf> {
    let from = |name| var_os(name).map(PathBuf::from);
    // A path that is not absolute is to be ignored, says the XDG specification.
    let state = from("XDG_STATE_HOME").filter(|path| path.is_absolute());
    state.or_else(|| {
        Some(
            from("HOME")
                .filter(|path| path.is_absolute())?
                .join(".local/state"),
        )
    })
}
