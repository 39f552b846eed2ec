//! The files of a directory.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use blocking::unblock;

use super::storage::{FileName, Storage};
use crate::lock::Lock;

/// The file whose lock says that a process has the directory open.
const LOCK_FILE: &str = "lock";

/// The only entry of a file system that was just made.
const NEW_FILE_SYSTEM: &str = "lost+found";

/// How long the lock is waited for. A store of this process that was dropped in the middle of a write holds it
/// until the write is done.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// How long until the lock is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// The default [`Storage`]: a directory. Calls that block run on threads of the crate `blocking`.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Those that were written.
    open: Lock<HashMap<FileName, OpenFile>>,
    /// Locked while it is open.
    _lock: File,
}

/// A file, and the place that the system writes to next.
type OpenFile = Arc<Lock<(File, u64)>>;

impl Directory {
    /// Opens the directory, or makes it.
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_path_buf();
        unblock(move || Self::open_blocking(path)).await
    }

    fn open_blocking(path: PathBuf) -> io::Result<Self> {
        let missing = path.ancestors().take_while(|path| !path.exists());
        // Above an empty one, the path is relative, and the directory that is worked in is there.
        let missing = missing.filter(|path| !path.as_os_str().is_empty()).count();
        fs::create_dir_all(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
            _ => error,
        })?;
        if is_foreign(&path)? {
            let message = "the directory is not empty, and holds no store of keywire";
            return Err(io::Error::other(message));
        }
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false);
        let lock = lock.open(path.join(LOCK_FILE))?;
        acquire(&lock)?;
        // Each directory that was made, and this one, since a crash may have come before that.
        for parent in path.ancestors().skip(1).take(missing.max(1)) {
            match sync_directory(parent) {
                // Then the directory itself may not survive a loss of power at once.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                result => result?,
            }
        }
        sync_directory(&path)?;
        Ok(Self(Arc::new(Inner {
            path,
            open: Lock::new(HashMap::new()),
            _lock: lock,
        })))
    }

    /// Runs a call that blocks.
    async fn run<T: Send + 'static>(
        self,
        call: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        unblock(move || call(&self.0)).await
    }
}

impl Inner {
    fn path(&self, file: FileName) -> PathBuf {
        self.path.join(file.to_string())
    }

    /// The file for writing. It is made if there is none.
    fn open(&self, name: FileName) -> io::Result<OpenFile> {
        if let Some(file) = self.open.lock().get(&name) {
            return Ok(file.clone());
        }
        let path = self.path(name);
        let mut options = OpenOptions::new();
        let file = match options.write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = options.create_new(true).open(&path)?;
                sync_directory(&self.path)?;
                file
            }
            result => result?,
        };
        let file = Arc::new(Lock::new((file, 0)));
        self.open.lock().insert(name, file.clone());
        Ok(file)
    }

    fn close(&self, name: FileName) {
        self.open.lock().remove(&name);
    }
}

impl Storage for Directory {
    fn list(&self) -> impl Future<Output = io::Result<Vec<(FileName, u64)>>> + Send + 'static {
        self.clone().run(|inner| {
            let mut files = Vec::new();
            for entry in fs::read_dir(&inner.path)? {
                let entry = entry?;
                if let Some(name) = entry.file_name().to_str().and_then(FileName::parse) {
                    files.push((name, entry.metadata()?.len()));
                }
            }
            Ok(files)
        })
    }

    fn read(
        &self,
        file: FileName,
        at: u64,
        bytes: usize,
    ) -> impl Future<Output = io::Result<Vec<u8>>> + Send + 'static {
        self.clone().run(move |inner| {
            let mut file = File::open(inner.path(file))?;
            file.seek(SeekFrom::Start(at))?;
            let mut read = Vec::with_capacity(bytes);
            file.take(bytes as u64).read_to_end(&mut read)?;
            Ok(read)
        })
    }

    fn write(
        &self,
        file: FileName,
        at: u64,
        bytes: Vec<u8>,
        sync: bool,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.clone().run(move |inner| {
            let file = inner.open(file)?;
            let (file, place) = &mut *file.lock();
            if *place != at {
                file.seek(SeekFrom::Start(at))?;
            }
            // Nowhere, should it fail.
            *place = u64::MAX;
            file.write_all(&bytes)?;
            *place = at + bytes.len() as u64;
            if sync {
                file.sync_data()?;
            }
            Ok(())
        })
    }

    fn sync(&self, file: FileName) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.clone()
            .run(move |inner| inner.open(file)?.lock().0.sync_data())
    }

    fn truncate(
        &self,
        file: FileName,
        at: u64,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.clone().run(move |inner| {
            let file = inner.open(file)?;
            let (file, _) = &mut *file.lock();
            file.set_len(at)?;
            file.sync_all()
        })
    }

    fn rename(
        &self,
        from: FileName,
        to: FileName,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.clone().run(move |inner| {
            inner.close(from);
            inner.close(to);
            fs::rename(inner.path(from), inner.path(to))?;
            sync_directory(&inner.path)
        })
    }

    fn remove(&self, file: FileName) -> impl Future<Output = io::Result<()>> + Send + 'static {
        self.clone().run(move |inner| {
            inner.close(file);
            match fs::remove_file(inner.path(file)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            }
        })
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Directory").field(&self.0.path).finish()
    }
}

/// Whether there is something in the directory, and nothing of a store.
fn is_foreign(path: &Path) -> io::Result<bool> {
    let mut is_empty = true;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_str().unwrap_or_default();
        if FileName::parse(name).is_some() {
            return Ok(false);
        }
        is_empty &= name == LOCK_FILE || name == NEW_FILE_SYSTEM;
    }
    Ok(!is_empty)
}

fn acquire(lock: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => {
                thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                let message = "another process has it open";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
        }
    }
}

/// Makes the names in a directory survive a loss of power. Only Unix can and has to.
fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        })?
        .sync_all()?;
    }
    Ok(())
}
