//! The file system alone: what a publish cannot be faster than.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::BODY_BYTES;

/// Bytes that the file has from the start; it is written from its beginning again when it is full.
const FILE_BYTES: u64 = 64 << 20;

/// Appends that tell how fast the disk is just now.
const PROBES: usize = 15;

pub(crate) struct Raw {
    file: File,
    at: u64,
}

impl Raw {
    pub(crate) fn new(folder: &Path) -> Self {
        let file = OpenOptions::new().write(true).create_new(true).open(folder.join("raw")).unwrap();
        let zeros = vec![0; 1 << 20];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, at).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, at: 0 }
    }

    /// Appends, and waits until it is on disk.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.at + bytes.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at).unwrap();
        self.file.sync_data().unwrap();
        self.at += bytes.len() as u64;
    }

    /// How long an append of one record takes just now.
    pub(crate) fn probe(&mut self) -> Vec<f64> {
        let append = |_| {
            let began = Instant::now();
            self.append(&[b'x'; BODY_BYTES]);
            began.elapsed().as_secs_f64()
        };
        (0..PROBES).map(append).collect()
    }

    /// Appends groups of so many records for so long, and answers how long each took.
    pub(crate) fn run(&mut self, records: u64, duration: Duration) -> Vec<Duration> {
        let group = vec![b'x'; records as usize * BODY_BYTES];
        let began = Instant::now();
        let mut times = Vec::new();
        while began.elapsed() < duration {
            let append = Instant::now();
            self.append(&group);
            times.push(append.elapsed());
        }
        times
    }
}
