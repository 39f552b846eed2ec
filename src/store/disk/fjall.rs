//! The rows in an LSM tree, by the crate fjall.

use std::{
    fs,
    io::{self, Read as _},
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ::fjall::{
    AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _,
};
use blocking::unblock;

use super::engine::{Engine, Row, Space};

/// Bytes of rows that are read in one go.
const READ_BYTES: usize = 1 << 20;

/// The least that the engine needs for its buffers.
const MIN_MEMORY: u64 = 2 << 20;

/// Commits between two measurements of the bytes on the disk.
const COMMITS_PER_SIZE: u32 = 256;

/// Bytes of the engine's own log from which on it writes out all of its buffers, to be rid of the oldest part.
const JOURNALS: u64 = 128 << 20;

/// Threads of the engine, which write out its buffers and merge its files.
const THREADS: usize = 2;

/// The default [`Engine`]: an LSM tree in a directory.
#[derive(Clone)]
pub struct Fjall {
    database: Database,
    spaces: [Keyspace; Space::ALL.len()],
    /// As last asked, and how many commits ago.
    bytes: Arc<AtomicU64>,
    commits: u32,
}

impl Fjall {
    /// Opens the directory, or makes it.
    pub(super) async fn open(directory: &Path, memory: u64) -> io::Result<Self> {
        let directory = directory.to_path_buf();
        unblock(move || {
            // It panics over some damage.
            let open = || Self::open_blocking(&directory, memory.max(MIN_MEMORY));
            catch_unwind(open).unwrap_or_else(|_| {
                let message = "a file is damaged; restore a copy";
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            })
        })
        .await
    }

    fn open_blocking(directory: &PathBuf, memory: u64) -> io::Result<Self> {
        if is_foreign(directory)? && !remove_begun(directory)? {
            return Err(no_store());
        }
        let database = Database::builder(directory)
            .worker_threads(THREADS)
            .max_journaling_size(JOURNALS)
            .cache_size(memory / 4)
            .open()
            .map_err(to_io)?;
        let names = database.list_keyspace_names();
        if !names.is_empty() && !names.iter().any(|name| &**name == "meta") {
            return Err(no_store());
        }
        let space = |name: &str| {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(memory / 4);
            database.keyspace(name, options).map_err(to_io)
        };
        let this = Self {
            spaces: [
                space("meta")?,
                space("log-0")?,
                space("log-1")?,
                space("snapshot-0")?,
                space("snapshot-1")?,
            ],
            database,
            bytes: Arc::default(),
            commits: 0,
        };
        this.measure();
        Ok(this)
    }

    /// It asks the system, and so is not done often.
    fn measure(&self) {
        if let Ok(bytes) = self.database.disk_space() {
            self.bytes.store(bytes, Ordering::Relaxed);
        }
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[match space {
            Space::Meta => 0,
            Space::Log(which) => 1 + which % 2,
            Space::Snapshot(which) => 3 + which % 2,
        }]
    }
}

fn no_store() -> io::Error {
    io::Error::other("the directory is not empty, and holds no store of keywire")
}

/// Whether there is something, and it is not what fjall has made.
fn is_foreign(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_some() && !is_complete(directory)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// fjall writes this file when it has made all others.
fn is_complete(directory: &Path) -> io::Result<bool> {
    match fs::metadata(directory.join("version")) {
        Ok(version) => Ok(version.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what stands in fjall's way if it was ended while it made the directory. Gives whether the
/// directory is of that kind: it has files of fjall's names, and nothing is in them.
// The feature wants Rust 1.90, the rest of the crate an older one.
#[allow(clippy::incompatible_msrv)]
fn remove_begun(directory: &Path) -> io::Result<bool> {
    let Ok(lock) = fs::File::open(directory.join("lock")) else {
        return Ok(false);
    };
    // Another process may be making it just now.
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::Error(error) => error,
        fs::TryLockError::WouldBlock => to_io(::fjall::Error::Locked),
    })?;
    let mut begun = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let is_empty = match entry.file_name().to_str() {
            Some("keyspaces") => fs::read_dir(&path)?.next().is_none(),
            Some("0.jnl" | "version") => {
                begun.push(path.clone());
                is_zeros(&path)?
            }
            Some("lock") => entry.metadata()?.len() == 0,
            _ => false,
        };
        if !is_empty {
            return is_complete(directory);
        }
    }
    begun.into_iter().try_for_each(fs::remove_file)?;
    Ok(true)
}

/// fjall allots the space of a file before it writes there.
fn is_zeros(file: &Path) -> io::Result<bool> {
    let mut file = fs::File::open(file)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(true),
            n if piece[..n].iter().any(|&byte| byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn to_io(error: ::fjall::Error) -> io::Error {
    match error {
        ::fjall::Error::Io(error) | ::fjall::Error::Storage(::fjall::LsmError::Io(error)) => error,
        ::fjall::Error::Poisoned => io::Error::other("an earlier write of the engine has failed"),
        ::fjall::Error::Locked => {
            io::Error::new(io::ErrorKind::ResourceBusy, "another process has it open")
        }
        other => io::Error::other(other),
    }
}

impl Engine for Fjall {
    async fn write(&mut self, rows: Vec<Row>, sync: bool) -> io::Result<()> {
        self.commits = (self.commits + 1) % COMMITS_PER_SIZE;
        let this = self.clone();
        unblock(move || {
            let mode = sync.then_some(PersistMode::SyncData);
            let mut batch = this.database.batch().durability(mode);
            for Row {
                space,
                number,
                value,
            } in rows
            {
                batch.insert(this.space(space), number.to_be_bytes(), value);
            }
            batch.commit().map_err(to_io)?;
            if this.commits == 0 {
                this.measure();
            }
            Ok(())
        })
        .await
    }

    async fn clear(&mut self, space: Space) -> io::Result<()> {
        let space = self.space(space).clone();
        unblock(move || {
            // `clear` alone leaves the files where they are until the next start.
            let tables = space.tree.drop_range::<&[u8], _>(..);
            tables.map_err(|error| to_io(error.into()))?;
            space.clear().map_err(to_io)
        })
        .await
    }

    async fn read(&mut self, space: Space, from: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let (database, space) = (self.database.clone(), self.space(space).clone());
        unblock(move || {
            let mut rows = Vec::new();
            let mut bytes = 0;
            for row in database.snapshot().range(&space, from.to_be_bytes()..) {
                let (number, value) = row.into_inner().map_err(to_io)?;
                let number = number.as_ref().try_into().map_err(io::Error::other)?;
                bytes += value.len();
                rows.push((u64::from_be_bytes(number), value.to_vec()));
                if bytes >= READ_BYTES {
                    break;
                }
            }
            Ok(rows)
        })
        .await
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Fjall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fjall").finish_non_exhaustive()
    }
}
