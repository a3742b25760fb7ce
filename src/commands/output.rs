//! The text that commands print.

use std::io::{self, IsTerminal, Write};

use flowtap_pipeline::plain;

use crate::exit::{Code, ExitError};

/// To standard output, as a whole; on a terminal without foreign control characters. A reader that
/// has gone away (`| head`) is not an error.
pub(super) fn print(text: &str) -> Result<(), ExitError> {
    let shown = if io::stdout().is_terminal() {
        plain::lines(text)
    } else {
        text.into()
    };
    let text = &*shown;
    match io::stdout()
        .write_all(text.as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| {
            ExitError::new(Code::System, format!("can't write to standard output: {error}"))
        }),
    }
}
