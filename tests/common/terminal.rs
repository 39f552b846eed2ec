//! A terminal, and a program that sits at it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Action, LocalModes, Winsize, tcflow, tcgetattr, tcsetwinsize},
};

use super::{example, server_process::signal_to, wait_until};

/// What the program has of the terminal.
#[derive(Clone, Copy, Debug)]
pub enum Has {
    /// It is its input, its output and its controlling terminal, as in a window.
    All,
    /// The same, with `/dev/null` for input.
    NoInput,
    /// It is its input and output only, so that no signal says when it is gone.
    NoControl,
}

/// What is shown is read all the time, so that no program waits for it.
pub struct Terminal {
    pub child: Child,
    keys: Option<File>,
    screen: Screen,
    /// The program's side, for the modes that it leaves behind.
    tty: OwnedFd,
}

struct Screen {
    shown: Arc<Mutex<Vec<u8>>>,
    closed: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// An example program at a terminal. It does not outlive the test.
    pub fn start(has: Has, program: &str, arguments: &[&str]) -> Self {
        Self::start_with(has, program, arguments, &[])
    }

    /// The same with these variables, or without them. If none says otherwise, it keeps no history.
    pub fn start_with(
        has: Has,
        program: &str,
        arguments: &[&str],
        variables: &[(&str, Option<&str>)],
    ) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let tty = open(OsStr::from_bytes(name.as_bytes()), flags, Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&tty, size).unwrap();
        let mut command = Command::new("setsid");
        match has {
            Has::All => command.arg("--ctty"),
            Has::NoInput => command.args(["--ctty", "sh", "-c", "exec \"$0\" \"$@\" < /dev/null"]),
            Has::NoControl => &mut command,
        };
        let side = || Stdio::from(tty.try_clone().unwrap());
        command.arg(example(program)).args(arguments);
        command.stdin(side()).stdout(side()).stderr(side());
        command.env("TERM", "xterm").env("KEYWIRE_HISTORY", "");
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let keys = File::from(keys);
        Self {
            child: command.spawn().unwrap(),
            screen: Screen::of(keys.try_clone().unwrap()),
            keys: Some(keys),
            tty,
        }
    }

    pub fn press(&mut self, keys: &str) {
        let terminal = self.keys.as_mut().unwrap();
        terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// What has been shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.shown.lock().unwrap()).into_owned()
    }

    #[track_caller]
    pub fn await_shown(&self, text: &str) {
        wait_until(&format!("{text:?} is shown"), || {
            self.shown().contains(text)
        });
    }

    /// Whether keys come line by line and are echoed, as a shell wants it.
    pub fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.tty).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    pub fn signal(&self, signal: &str) {
        signal_to(&self.child, signal);
    }

    /// As Ctrl-S does where the program did not take that key for itself.
    pub fn stop_output(&self) {
        tcflow(&self.tty, Action::OOff).unwrap();
    }

    /// As when the window is closed.
    pub fn hang_up(&mut self) {
        self.keys = None;
        self.screen.close();
    }

    /// Waits for the end; gives the exit code. All that it showed has been read then.
    pub fn end(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("it has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.screen.close();
        status.and_then(|status| status.code())
    }
}

impl Screen {
    fn of(mut terminal: File) -> Self {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let closed = Arc::new(AtomicBool::new(false));
        let (all, stop) = (shown.clone(), closed.clone());
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // Asked first, as what was shown before it was closed is still to be read.
                let closed = stop.load(Ordering::SeqCst);
                let mut watched = [PollFd::new(&terminal, PollFlags::IN)];
                let limit = Timespec {
                    tv_sec: 0,
                    tv_nsec: if closed { 0 } else { 5_000_000 },
                };
                match poll(&mut watched, Some(&limit)) {
                    Ok(0) if closed => return,
                    Ok(0) | Err(_) => continue,
                    Ok(_) => {}
                }
                match terminal.read(&mut buffer) {
                    Ok(n @ 1..) => all.lock().unwrap().extend_from_slice(&buffer[..n]),
                    _ => return,
                }
            }
        });
        Self {
            shown,
            closed,
            reader: Some(reader),
        }
    }

    fn close(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.screen.close();
    }
}
