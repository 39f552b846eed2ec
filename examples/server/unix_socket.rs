//! A Unix socket in the file system: one server has it, and what a killed one left is no obstacle.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net::{SocketAddr, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, flock},
    process::umask,
};
use smol::net::unix::UnixListener;

/// How long to wait for the lock of the directory. Another server needs it for a few system calls.
const LOCK_TIME: Duration = Duration::from_secs(1);

/// Our socket in the file system. Removes it at the end, unless another has taken its place.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<Identity>,
}

/// The number of a file that is gone may be given to the next one, its time of origin is not.
#[derive(PartialEq)]
struct Identity {
    device: u64,
    inode: u64,
    made: (i64, i64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Without the lock it could be replaced between the look and the removal.
        let _lock = lock_directory(&self.path);
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let file = fs::symlink_metadata(path).ok()?;
    Some(Identity {
        device: file.dev(),
        inode: file.ino(),
        made: (file.mtime(), file.mtime_nsec()),
    })
}

pub(crate) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // With the lock, no other server is between `bind` and `listen`, where its socket looks
    // abandoned, nor between its look at an abandoned one and the removal.
    let _lock = lock_directory(path);
    let mut bound = bind_private(path);
    if matches!(&bound, Err(error) if error.kind() == ErrorKind::AddrInUse) && is_abandoned(path) {
        fs::remove_file(path)?;
        bound = bind_private(path);
    }
    let listener = bound?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path),
    };
    Ok((listener, file))
}

/// A server that was killed leaves its socket behind; one that lives answers. Anything else in this
/// place is somebody's file.
fn is_abandoned(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Locks the directory itself: a file for the lock would have to be removed, which is a race again.
/// The lock goes with the descriptor.
///
/// If the lock can't be had, the server goes on without it: the directory may not be readable for
/// us, and anyone who can read it can hold its lock. Then two servers that start or end at the same
/// moment may remove each other's socket, and nothing else goes wrong.
fn lock_directory(path: &Path) -> Option<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let file = File::open(directory).ok()?;
    let began = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(file),
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_TIME => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}

/// A socket for us alone, from its first moment: to change its mode afterwards would leave others a
/// moment to connect. The mask is the whole process's, so this comes before there are other threads
/// that make files.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    if let Err(error) = SocketAddr::from_pathname(path) {
        let bytes = path.as_os_str().len();
        let words = format!("{error}; this one has {bytes} bytes");
        return Err(io::Error::new(error.kind(), words));
    }
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    bound
}
