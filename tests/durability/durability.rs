//! The store on a disk: what it promises when processes are killed, disks fail and files are damaged.

// They want processes and signals of this system.
#![cfg(target_os = "linux")]

mod crash;
mod damage;
mod directory;
mod faults;
mod model;
mod process;
mod reopen;
mod shown;
mod simulated;
mod space;
mod storage;
mod world;
