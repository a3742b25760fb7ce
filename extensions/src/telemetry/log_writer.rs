//! Writes the log without ever making anybody wait for it.
//!
//! In: formatted lines, from any thread. Out: standard error, from a separate thread. If standard
//! error is a pipe without a reader, lines wait up to a bound; further lines are dropped and
//! counted, and a line reports it once there is room again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::metrics::Meter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const CAPACITY: usize = 1024;

/// Interval at which a full queue is tried again while its end is awaited.
const RETRY: Duration = Duration::from_millis(5);

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

/// The log's end. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct LogWriter {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl LogWriter {
    /// Starts the thread that writes to standard error. The sandbox is a thread's, so enter that first.
    ///
    /// # Errors
    /// No thread could be started, or standard error could not be duplicated.
    pub fn stderr() -> io::Result<Self> {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Self::new(stderr, CAPACITY)
    }

    fn new(out: impl Write + Send + 'static, capacity: usize) -> io::Result<Self> {
        let (queue, lines) = sync_channel(capacity);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(out, &lines, &counter))?;
        Ok(Self { queue, dropped })
    }

    /// Counts dropped lines in the daemon's own metrics.
    pub fn count(&self, meter: &Meter) {
        let dropped = Arc::clone(&self.dropped);
        meter
            .u64_observable_counter("log_dropped_lines")
            .with_description("Log lines that were dropped because standard error was not read.")
            .with_unit("{line}")
            .with_callback(move |observer| observer.observe(dropped.load(Ordering::Relaxed), &[]))
            .build();
    }

    /// Waits until everything logged so far is written, no longer than `timeout`.
    pub fn flush(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(error) = self.queue.try_send(message) {
            let TrySendError::Full(back) = error else { return };
            if Instant::now() >= until {
                return;
            }
            message = back;
            thread::sleep(RETRY);
        }
        // Without an answer in time there is nobody to read.
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// One line: an event is formatted as a whole and written at once.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn write(mut out: impl Write, messages: &Receiver<Message>, dropped: &AtomicU64) {
    let mut reported = 0;
    for message in messages {
        match message {
            Message::Line(line) => {
                let now = dropped.load(Ordering::Relaxed);
                if now > reported {
                    let lines = now - reported;
                    let _ = writeln!(
                        out,
                        "flowtap: {lines} log lines were dropped, as standard error was not read"
                    );
                    reported = now;
                }
                // A closed standard error is not a reason to end.
                let _ = out.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_pipe_that_nobody_reads_blocks_nobody_and_what_is_dropped_is_counted() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let mut writer = LogWriter::new(pipe, 4).unwrap();
        let line = vec![b'x'; 64 << 10];
        let began = Instant::now();
        for _ in 0..20 {
            writer.write_all(&line).unwrap();
        }
        LogWriter::flush(&writer, Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let dropped = writer.dropped.load(Ordering::Relaxed);
        assert!((14..20).contains(&dropped), "{dropped}");

        let read = move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        };
        let read = thread::Builder::new().spawn(read).unwrap();
        LogWriter::flush(&writer, Duration::from_secs(30));
        writer.write_all(b"the last line\n").unwrap();
        LogWriter::flush(&writer, Duration::from_secs(30));
        drop(writer);
        let text = read.join().unwrap();
        // On a busy machine lines may be dropped, and reported, while the first ones are still being written.
        let reports = text
            .lines()
            .filter(|line| line.contains("log lines were dropped"));
        let counts = reports.filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
        assert_eq!(counts.sum::<u64>(), dropped);
        assert!(text.ends_with("the last line\n"));
    }
}
