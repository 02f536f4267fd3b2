//! How long something is, as it is typed.

/// A time such as `90s`, `15m`, `12h` or `30d`, in milliseconds.
pub(crate) fn millis(text: &str) -> Result<u64, String> {
    let refuse =
        || format!("`{text}` is no time; write a number and a unit, such as 500ms, 90s, 15m, 12h or 30d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).ok_or_else(refuse)
}
