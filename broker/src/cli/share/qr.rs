//! QR codes in a terminal.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around a code, without which a camera does not find it. The standard asks for four; phones need two.
const QUIET: usize = 2;
/// Dark on light whatever the terminal's own colours are.
const COLOURS: &str = "\u{1b}[38;5;16m\u{1b}[48;5;231m";
const RESET: &str = "\u{1b}[0m";

/// Why there is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCode {
    /// The text is longer than a code can be.
    #[error("the link is too long for one")]
    Long,
    /// It would be broken into lines.
    #[error("it needs a terminal of {0} columns")]
    Narrow(usize),
}

/// A code as lines of half blocks, each of which shows two modules, one above the other.
pub(crate) fn code(text: &str, columns: Option<usize>) -> Result<String, NoCode> {
    // The least correction: a screen has no scratches, and a smaller code fits more terminals.
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|_| NoCode::Long)?;
    let width = code.width();
    let side = width + 2 * QUIET;
    if columns.is_some_and(|columns| columns < side) {
        return Err(NoCode::Narrow(side));
    }
    let is_dark = |x: usize, y: usize| {
        let inside = |place: usize| place.checked_sub(QUIET).filter(|place| *place < width);
        inside(x).zip(inside(y)).is_some_and(|place| code[place] == Color::Dark)
    };
    let mut lines = String::new();
    for y in (0..side).step_by(2) {
        let row = (0..side).map(|x| match (is_dark(x, y), is_dark(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        });
        lines.extend([COLOURS, &row.collect::<String>(), RESET, "\n"]);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_where_it_belongs() {
        let text = "https://broker.example/#/s/acme/build/42?token=eyJhbGciOiJFZERTQSJ9.e30.c2ln";
        let wanted = QrCode::with_error_correction_level(text, EcLevel::L).unwrap();
        let shown = code(text, Some(1000)).unwrap();
        let rows: Vec<Vec<char>> = shown
            .lines()
            .map(|line| line.strip_prefix(COLOURS).unwrap().strip_suffix(RESET).unwrap().chars().collect())
            .collect();
        let side = wanted.width() + 2 * QUIET;
        assert_eq!(rows.len(), side.div_ceil(2));
        for (y, row) in rows.iter().enumerate() {
            assert_eq!(row.len(), side);
            for (x, shown) in row.iter().enumerate() {
                for (half, dark) in [(0, "█▀".contains(*shown)), (1, "█▄".contains(*shown))] {
                    let (x, y) = (x.wrapping_sub(QUIET), (2 * y + half).wrapping_sub(QUIET));
                    let inside = x < wanted.width() && y < wanted.width();
                    assert_eq!(dark, inside && wanted[(x, y)] == Color::Dark, "{x} {y}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let NoCode::Narrow(columns) = code("x", Some(3)).unwrap_err() else { panic!() };
        assert!(code("x", Some(columns)).is_ok() && code("x", None).is_ok());
        assert_eq!(code(&"x".repeat(5000), None), Err(NoCode::Long));
    }
}
